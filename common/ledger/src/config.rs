//! What an operator can say about the ledger.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use service::config::without_password;
use storage::Url;

use crate::Error;

/// Where the ledger is, and how it is written; `[storage]` in the pool's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// `sqlite:FILE`, or `postgres://user:password@host:port/database`, with `?sslmode=require` for TLS.
    pub url: String,
    /// Certificates (PEM) of those who may sign the database server's; those that the system trusts if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The time from one commit to the next under load, in milliseconds. A share is acknowledged after the next commit.
    pub commit_interval_ms: u64,
    /// Entries that may wait for a commit, one for each worker with shares in what one read of a connection brought.
    /// When there are more, connections are not read.
    pub queue: usize,
    /// Workers of one account that are booked by name in an hour; further ones are booked as `other`.
    pub workers_per_account: usize,
    /// How long work is kept by the minute, in hours; older work is kept by the hour.
    pub minutes_kept_hours: u32,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            ca_file: None,
            commit_interval_ms: 5,
            queue: 65_536,
            workers_per_account: 10_000,
            minutes_kept_hours: 48,
        }
    }
}

impl StorageConfig {
    /// Checks what can be checked without the database.
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
        self.place()?;
        if !(1..=60_000).contains(&self.commit_interval_ms) {
            return wrong("storage.commit_interval_ms", "from 1 to 60000 is possible");
        }
        if !(1024..=16_777_216).contains(&self.queue) {
            return wrong("storage.queue", "from 1024 to 16777216 is possible");
        }
        if self.workers_per_account == 0 {
            return wrong("storage.workers_per_account", "must be at least 1");
        }
        if self.minutes_kept_hours == 0 {
            return wrong("storage.minutes_kept_hours", "must be at least 1");
        }
        Ok(())
    }

    /// Where the ledger is.
    pub(crate) fn place(&self) -> Result<Url, Error> {
        Ok(Url::parse(&self.url, self.ca_file.as_deref())?)
    }

    /// The URL without its password.
    #[must_use]
    pub fn shown(&self) -> String {
        without_password(&self.url)
    }

    pub(crate) fn commit_interval(&self) -> Duration {
        Duration::from_millis(self.commit_interval_ms)
    }
}
