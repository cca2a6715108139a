//! What an operator can say about a stats service.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use service::config::without_password;
use service::http::Address;
use service::listener::Limits;
use storage::Url;
use subtle::ConstantTimeEq;

use super::{Error, MetricsConfig};
use crate::Token;
use crate::series::Period;
use crate::state::SenderKey;
use crate::web::{Kind, WebConfig};

/// Which service it is: what tells `pool-stats` and `proxy-stats` apart.
pub trait Role: Send + Sync + 'static {
    /// The subcommand's name.
    const NAME: &str;
    /// In the names of metrics.
    const METRICS: &str;
    /// The port for senders.
    const PORT: u16;
    /// The port for pages and operators.
    const HTTP_PORT: u16;
    /// The roles that it serves.
    const ROLES: &[&str];
    /// The pages that it shows.
    const PAGES: Kind;
}

/// The configuration of a stats service; its file in `config/` documents each key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, bound = "R: Role")]
pub struct Config<R> {
    /// Where senders connect.
    pub listen_address: SocketAddr,
    /// Where pages, API, `/healthz`, `/readyz`, `/status` and `/metrics` are served, or `off`.
    pub http_address: Address,
    /// The secret that senders have to know, for the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// File with that secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Roles that are served.
    pub roles: Vec<String>,
    /// Senders of another Bitcoin network are refused; any is served if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Time from accepting a connection to a whole `hello`, the TLS handshake included.
    pub hello_timeout_seconds: u32,
    /// Time for a sender to take what is written to it.
    pub write_timeout_seconds: u32,
    /// Reads of connections that may wait for the writer. When there are more, connections are not read.
    pub queue: usize,
    /// Senders that are shown as down where they never came.
    pub expected: Vec<Expected>,
    /// Pages and API.
    pub web: WebConfig,
    /// Series at `/metrics`.
    pub metrics: MetricsConfig,
    /// Certificate and key.
    pub tls: TlsConfig,
    /// Connections.
    pub limits: Limits,
    /// Where everything is kept.
    pub storage: StorageConfig,
    /// Nothing; says whose configuration it is.
    #[serde(skip)]
    pub role: PhantomData<R>,
}

impl<R: Role> Default for Config<R> {
    fn default() -> Self {
        Self {
            listen_address: SocketAddr::from(([127, 0, 0, 1], R::PORT)),
            http_address: Address::loopback(R::HTTP_PORT),
            token: None,
            token_file: None,
            roles: R::ROLES.iter().copied().map(str::to_owned).collect(),
            network: None,
            hello_timeout_seconds: 5,
            write_timeout_seconds: 15,
            queue: 256,
            expected: Vec::new(),
            web: WebConfig::default(),
            metrics: MetricsConfig::default(),
            tls: TlsConfig::default(),
            limits: Limits {
                connections: 1000,
                connections_per_address: 100,
                ..Limits::default()
            },
            storage: StorageConfig::default(),
            role: PhantomData,
        }
    }
}

impl<R: Role> Config<R> {
    /// Checks what can be checked without files and sockets.
    ///
    /// # Errors
    /// [`Error::Config`] with the first value that cannot be.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |key, problem: &str| {
            Err(Error::Config {
                key,
                problem: problem.to_owned(),
            })
        };
        let has_token = self.token.is_some() || self.token_file.is_some();
        if self.token.is_some() && self.token_file.is_some() {
            return wrong("token", "set either this or token_file");
        }
        if self.token.as_ref().is_some_and(|t| t.reveal().is_empty()) {
            return wrong("token", "is empty");
        }
        if !self.listen_address.ip().is_loopback() && !has_token {
            let problem = "has to be set where other machines can connect; or token_file";
            return wrong("token", problem);
        }
        if self.roles.is_empty() {
            return wrong("roles", "names no role, and nobody could connect");
        }
        if self.hello_timeout_seconds == 0 {
            return wrong("hello_timeout_seconds", "must be at least 1");
        }
        if self.write_timeout_seconds == 0 {
            return wrong("write_timeout_seconds", "must be at least 1");
        }
        if !(1..=65_536).contains(&self.queue) {
            return wrong("queue", "from 1 to 65536 is possible");
        }
        if self
            .expected
            .iter()
            .any(|expected| !self.roles.contains(&expected.role))
        {
            return wrong("expected", "has a role that is not among roles");
        }
        if let Err((key, problem)) = self.web.validate(self.http_address) {
            return wrong(key, problem);
        }
        if let Err((key, problem)) = self.metrics.validate() {
            return wrong(key, &problem);
        }
        self.tls.validate()?;
        self.limits.validate()?;
        self.storage.validate(R::NAME)
    }

    pub(super) fn token(&self) -> Result<Secret, Error> {
        let token = match &self.token_file {
            Some(file) => Some(Token::read(file).map_err(|problem| Error::Config {
                key: "token_file",
                problem,
            })?),
            None => self.token.clone(),
        };
        Ok(Secret(token))
    }
}

/// The token, to compare with.
pub(super) struct Secret(Option<Token>);

impl Secret {
    /// Whether a sender knows it, found out in a time that does not tell how much of it was right. Without a token all do.
    pub(super) fn is_known(&self, said: Option<&str>) -> bool {
        let Some(token) = &self.0 else { return true };
        let (token, said) = (token.reveal(), said.unwrap_or_default());
        token.as_bytes().ct_eq(said.as_bytes()).into()
    }
}

/// A sender that should be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// As in its `hello`.
    pub role: String,
    /// As in its `hello`.
    pub name: String,
}

impl Expected {
    pub(super) fn key(&self) -> SenderKey {
        SenderKey {
            role: self.role.clone(),
            name: self.name.clone(),
        }
    }
}

/// TLS for senders; without files they come without.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM: the certificate and those that lead to an authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// PEM: the certificate's private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// Where everything is kept, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// `sqlite:FILE`, or `postgres://user:password@host:port/database`, with `?sslmode=require` for TLS; a file in `data` if
    /// it is empty. The database is this service's own.
    pub url: String,
    /// Certificates (PEM) of those who may sign the database server's; those that the system trusts if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The time from one commit to the next, in milliseconds. What is told is acknowledged after the next commit.
    pub commit_interval_ms: u64,
    /// How long samples of a minute are kept, in hours.
    pub minutes_kept_hours: u32,
    /// How long samples of ten minutes are kept, in days.
    pub ten_minutes_kept_days: u32,
    /// How long samples of an hour are kept, in days.
    pub hours_kept_days: u32,
    /// How long a sender that is down and not expected is remembered, in days.
    pub senders_kept_days: u32,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            ca_file: None,
            commit_interval_ms: 200,
            minutes_kept_hours: 6,
            ten_minutes_kept_days: 7,
            hours_kept_days: 400,
            senders_kept_days: 30,
        }
    }
}

impl StorageConfig {
    fn validate(&self, role: &str) -> Result<(), Error> {
        let wrong = |key, problem: &str| {
            Err(Error::Config {
                key,
                problem: problem.to_owned(),
            })
        };
        self.place(role)?;
        if !(1..=10_000).contains(&self.commit_interval_ms) {
            return wrong("storage.commit_interval_ms", "from 1 to 10000 is possible");
        }
        // What hashrates are restored from after a restart.
        if self.minutes_kept_hours < 2 {
            return wrong("storage.minutes_kept_hours", "must be at least 2");
        }
        if self.ten_minutes_kept_days < 2 {
            return wrong("storage.ten_minutes_kept_days", "must be at least 2");
        }
        if self.hours_kept_days < 2 {
            return wrong("storage.hours_kept_days", "must be at least 2");
        }
        if !(1..=3650).contains(&self.senders_kept_days) {
            return wrong("storage.senders_kept_days", "from 1 to 3650 is possible");
        }
        Ok(())
    }

    fn url(&self, role: &str) -> String {
        if self.url.is_empty() {
            format!("sqlite:data/{role}.sqlite")
        } else {
            self.url.clone()
        }
    }

    pub(super) fn place(&self, role: &str) -> Result<Url, Error> {
        match Url::parse(&self.url(role), self.ca_file.as_deref()) {
            Err(storage::Error::Url(problem)) => Err(Error::Config {
                key: "storage.url",
                problem: problem.to_owned(),
            }),
            parsed => Ok(parsed?),
        }
    }

    pub(super) fn shown(&self, role: &str) -> String {
        without_password(&self.url(role))
    }

    pub(super) fn commit_interval(&self) -> Duration {
        Duration::from_millis(self.commit_interval_ms)
    }

    pub(super) fn senders_kept(&self) -> Duration {
        Duration::from_secs(u64::from(self.senders_kept_days) * 24 * 60 * 60)
    }

    /// How long samples of each period are kept, in milliseconds.
    pub(super) fn kept(&self) -> [(Period, u64); 3] {
        const HOUR: u64 = 3_600_000;
        [
            (Period::Minute, u64::from(self.minutes_kept_hours) * HOUR),
            (
                Period::TenMinutes,
                u64::from(self.ten_minutes_kept_days) * 24 * HOUR,
            ),
            (Period::Hour, u64::from(self.hours_kept_days) * 24 * HOUR),
        ]
    }
}
