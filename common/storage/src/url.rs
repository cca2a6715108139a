//! Where a database is.

use std::path::{Path, PathBuf};

use crate::Error;

/// Where a database is, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Url {
    /// The path of a file.
    Sqlite(String),
    /// A server.
    Postgres {
        /// As it is configured, with the password.
        text: String,
        /// Certificates of those who may sign the server's; those of the system without it.
        ca_file: Option<PathBuf>,
    },
}

impl Url {
    /// Reads `sqlite:FILE` or `postgres://user:password@host:port/database`.
    ///
    /// # Errors
    /// [`Error::Url`]
    pub fn parse(text: &str, ca_file: Option<&Path>) -> Result<Self, Error> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            // SQLite would read a name of its own out of these.
            if !path.is_empty() && !path.starts_with(':') && !path.starts_with("file:") {
                return Ok(Self::Sqlite(path.to_owned()));
            }
        } else if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            let (_, query) = text.split_once('?').unwrap_or_default();
            if query.contains("password=") {
                return Err(Error::Url(
                    "takes a password behind the user's name alone, as in postgres://user:password@host, where it is \
                     never shown",
                ));
            }
            return Ok(Self::Postgres {
                text: text.to_owned(),
                ca_file: ca_file.map(Path::to_owned),
            });
        }
        Err(Error::Url(
            "is \"sqlite:FILE\" or \"postgres://user:password@host:port/database\"",
        ))
    }

    /// The same without its password.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("sqlite:{path}"),
            Self::Postgres { text, .. } => service::config::without_password(text),
        }
    }
}
