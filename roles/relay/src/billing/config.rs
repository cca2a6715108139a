//! What an operator can say about the books.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage::Url;

use super::Error;

/// Where what is billed is kept, and how it is written; `[storage]` in the relay's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// `sqlite:FILE`, or `postgres://user:password@host:port/database`, with `?sslmode=require` for TLS; "off" for nowhere.
    pub url: String,
    /// Certificates (PEM) of those who may sign the database server's; those that the system trusts if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Time from one commit to the next. What was counted since the last one is lost when the process is killed.
    pub commit_interval_seconds: u64,
    /// Says of whom a row is in a database that relays share.
    pub relay_id: u16,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            url: "sqlite:data/relay.sqlite".to_owned(),
            ca_file: None,
            commit_interval_seconds: 10,
            relay_id: 1,
        }
    }
}

impl StorageConfig {
    /// Checks what can be checked without the database.
    ///
    /// # Errors
    /// [`Error::Config`] with the first value that cannot be.
    pub fn validate(&self) -> Result<(), Error> {
        self.place()?;
        if !(1..=3600).contains(&self.commit_interval_seconds) {
            return Err(Error::Config {
                key: "storage.commit_interval_seconds",
                problem: "from 1 to 3600 is possible".to_owned(),
            });
        }
        Ok(())
    }

    /// Where it is kept, if it is.
    pub(super) fn place(&self) -> Result<Option<Url>, Error> {
        super::place(self)
    }

    pub(super) fn interval(&self) -> Duration {
        Duration::from_secs(self.commit_interval_seconds)
    }
}
