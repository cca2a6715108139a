//! PostgreSQL.

use std::{error::Error as _, path::Path, sync::Arc, time::Duration};

use diesel::{connection::SimpleConnection, pg::Pg, result::Error as DatabaseError};
use diesel_async::{
    AsyncPgConnection, SimpleAsyncConnection, async_connection_wrapper::AsyncConnectionWrapper,
};
use diesel_migrations::EmbeddedMigrations;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::time::timeout;
use tokio_postgres::{NoTls, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    Error, Url,
    migrations::{self, Failed},
};

/// How long a server may take to let us in, or to acknowledge what was sent.
const ANSWER: Duration = Duration::from_secs(15);

/// A commit is on disk when it is answered, and a table that somebody has locked is waited for with an end.
const SETTINGS: &str = "SET synchronous_commit = on; SET lock_timeout = '5s'; SET idle_in_transaction_session_timeout = '60s';";

/// What migrations can run on.
type Blocking = AsyncConnectionWrapper<AsyncPgConnection>;

/// One process at a time brings tables up to date; the number is this project's own.
const LOCK_MIGRATIONS: &str = "SELECT pg_advisory_lock(7521983764853059436)";
const UNLOCK_MIGRATIONS: &str = "SELECT pg_advisory_unlock(7521983764853059436)";

/// A connection to a server.
pub struct Postgres {
    url: String,
    connection: AsyncPgConnection,
}

impl Postgres {
    /// Connects, with TLS where the URL says `sslmode=require`.
    ///
    /// # Errors
    /// [`Error::Open`]
    pub async fn open(url: &str, ca_file: Option<&Path>) -> Result<Self, Error> {
        let shown = service::config::without_password(url);
        match connect(url, ca_file).await {
            Ok(connection) => Ok(Self {
                url: shown,
                connection,
            }),
            Err(problem) => Err(Error::Open {
                url: shown,
                problem,
            }),
        }
    }

    /// Brings the tables up to date, on a blocking thread, because migrations are not asynchronous.
    ///
    /// # Errors
    /// [`Error::Newer`], [`Error::Open`]
    pub async fn migrate(self, known: EmbeddedMigrations) -> Result<Self, Error> {
        let Self { url, connection } = self;
        let place = Url::Postgres {
            text: url.clone(),
            ca_file: None,
        };
        let migrating = tokio::task::spawn_blocking(move || {
            let mut connection = Blocking::from(connection);
            let failed = |error: DatabaseError| Failed::Other(error.to_string());
            // Where migrations fail, the lock ends with the connection.
            SimpleConnection::batch_execute(&mut connection, LOCK_MIGRATIONS).map_err(failed)?;
            migrations::run::<Pg>(&mut connection, known)?;
            SimpleConnection::batch_execute(&mut connection, UNLOCK_MIGRATIONS).map_err(failed)?;
            Ok(connection.into_inner())
        });
        let migrated = migrating
            .await
            .unwrap_or_else(|error| Err(Failed::Other(error.to_string())));
        let connection = migrated.map_err(|failed| failed.at(&place))?;
        Ok(Self { url, connection })
    }

    /// What statements run on.
    pub fn connection(&mut self) -> &mut AsyncPgConnection {
        &mut self.connection
    }
}

async fn connect(url: &str, ca_file: Option<&Path>) -> Result<AsyncPgConnection, String> {
    let mut connection = timeout(ANSWER, establish(url, ca_file))
        .await
        .unwrap_or_else(|_| Err("no answer".to_owned()))?;
    connection
        .batch_execute(SETTINGS)
        .await
        .map_err(|error| error.to_string())?;
    Ok(connection)
}

/// Through TLS where it has to be.
async fn establish(url: &str, ca_file: Option<&Path>) -> Result<AsyncPgConnection, String> {
    let mut config: tokio_postgres::Config = url.parse().map_err(words)?;
    // So that a network that goes away without a word is noticed.
    config.tcp_user_timeout(ANSWER).keepalives_idle(ANSWER);
    let connected = if config.get_ssl_mode() == SslMode::Require {
        let (client, connection) = config.connect(tls(ca_file)?).await.map_err(words)?;
        AsyncPgConnection::try_from_client_and_connection(client, connection).await
    } else {
        let (client, connection) = config.connect(NoTls).await.map_err(words)?;
        AsyncPgConnection::try_from_client_and_connection(client, connection).await
    };
    connected.map_err(|error| error.to_string())
}

/// The server has to prove that it is who the URL says.
fn tls(ca_file: Option<&Path>) -> Result<MakeRustlsConnect, String> {
    let mut roots = RootCertStore::empty();
    let certificates = match ca_file {
        Some(path) => CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| format!("{}: {error}", path.display()))?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        return Err(
            "there is no certificate that the server's could be checked with; set storage.ca_file"
                .to_owned(),
        );
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// All that an error says; the reason stands in its source.
fn words(error: tokio_postgres::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
