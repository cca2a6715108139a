//! What the miner is told: `config/miner.toml` documents each key.

use std::{num::NonZero, path::PathBuf, thread, time::Duration};

use serde::{Deserialize, Serialize};
use work::{Difficulty, Hashrate};

use crate::{Error, server::Address};

/// The miner's configuration. Hashrates are in H/s, difficulties are Stratum V1 difficulties.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The server: `host:port`, or a URL with `stratum+tcp://`, or `stratum+ssl://` for TLS.
    pub address: String,
    /// PEM file with the authorities, or the server's own certificate, to trust over TLS; the system's if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca_file: Option<PathBuf>,
    /// Whether to take whoever answers over TLS for the server.
    pub tls_insecure: bool,
    /// The user name to authorize with, by custom `account.worker`.
    pub user: String,
    /// The password to authorize with; most servers ignore it.
    pub password: String,
    /// Threads that hash; 0 for one less than the machine has cores, but at least one.
    pub threads: usize,
    /// Hashes a second over all threads; 0 for no limit.
    pub hashrate_limit: f64,
    /// Whether to ask for version rolling (BIP 310) and roll what is granted.
    pub version_rolling: bool,
    /// A difficulty to suggest to the server after authorizing.
    pub suggest_difficulty: Option<f64>,
    /// How long a connection may take to be made.
    pub connect_timeout_seconds: f64,
    /// How long an answer to a request may take.
    pub response_timeout_seconds: f64,
    /// How long the server may be silent: a working one sends jobs.
    pub silence_timeout_seconds: f64,
    /// The wait before the first reconnection; each further one is twice as long.
    pub reconnect_first_seconds: f64,
    /// The longest wait before a reconnection.
    pub reconnect_longest_seconds: f64,
    /// How often hashrate and shares are logged; 0 for never.
    pub status_interval_seconds: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:34255".to_owned(),
            tls_ca_file: None,
            tls_insecure: false,
            user: "miner.worker1".to_owned(),
            password: "x".to_owned(),
            threads: 0,
            hashrate_limit: 0.0,
            version_rolling: true,
            suggest_difficulty: None,
            connect_timeout_seconds: 10.0,
            response_timeout_seconds: 60.0,
            silence_timeout_seconds: 300.0,
            reconnect_first_seconds: 0.5,
            reconnect_longest_seconds: 30.0,
            status_interval_seconds: 30.0,
        }
    }
}

impl Config {
    /// Checks every value without any I/O; the address's host is looked up when connecting.
    pub fn validate(&self) -> Result<(), Error> {
        self.checked().map(|_| ())
    }

    /// The configuration in the types that the miner works with.
    pub(crate) fn checked(&self) -> Result<Checked, Error> {
        let address = Address::parse(&self.address).ok_or_else(|| {
            let reason = "must be host:port, stratum+tcp://host:port or stratum+ssl://host:port";
            Error::config("address", reason)
        })?;
        if self.tls_insecure && self.tls_ca_file.is_some() {
            return Err(Error::config(
                "tls_insecure",
                "leaves no use for tls_ca_file",
            ));
        }
        if self.user.is_empty() {
            return Err(Error::config("user", "must not be empty"));
        }
        if self.threads > MAX_THREADS {
            return Err(Error::config("threads", "must be at most 1024"));
        }
        let limit = Hashrate::new(self.hashrate_limit)
            .map_err(|error| Error::config("hashrate_limit", error))?;
        let suggest_difficulty = self
            .suggest_difficulty
            .map(Difficulty::new)
            .transpose()
            .map_err(|error| Error::config("suggest_difficulty", error))?;
        let reconnect_first = duration("reconnect_first_seconds", self.reconnect_first_seconds)?;
        let reconnect_longest =
            duration("reconnect_longest_seconds", self.reconnect_longest_seconds)?;
        if reconnect_longest < reconnect_first {
            return Err(Error::config(
                "reconnect_longest_seconds",
                "must not be below reconnect_first_seconds",
            ));
        }
        let status_interval = match self.status_interval_seconds {
            0.0 => None,
            seconds => Some(duration("status_interval_seconds", seconds)?),
        };
        Ok(Checked {
            address,
            threads: match self.threads {
                0 => thread::available_parallelism()
                    .map_or(1, NonZero::get)
                    .saturating_sub(1)
                    .max(1),
                threads => threads,
            },
            limit,
            suggest_difficulty,
            connect_timeout: duration("connect_timeout_seconds", self.connect_timeout_seconds)?,
            response_timeout: duration("response_timeout_seconds", self.response_timeout_seconds)?,
            silence_timeout: duration("silence_timeout_seconds", self.silence_timeout_seconds)?,
            reconnect_first,
            reconnect_longest,
            status_interval,
        })
    }
}

/// What [`Config::checked`] found to be sound.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) address: Address,
    /// At least one.
    pub(crate) threads: usize,
    pub(crate) limit: Hashrate,
    pub(crate) suggest_difficulty: Option<Difficulty>,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    pub(crate) silence_timeout: Duration,
    pub(crate) reconnect_first: Duration,
    pub(crate) reconnect_longest: Duration,
    pub(crate) status_interval: Option<Duration>,
}

const MAX_THREADS: usize = 1024;

/// Long enough for anything; a timer far beyond it would overflow.
const LONGEST_SECONDS: f64 = 366.0 * 86_400.0;

fn duration(key: &'static str, seconds: f64) -> Result<Duration, Error> {
    if seconds.is_finite() && (0.001..=LONGEST_SECONDS).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(Error::config(key, "must be from 0.001 seconds to a year"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_file_says_the_defaults_and_names_every_key() {
        let text = include_str!("../../../config/miner.toml");
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(config, Config::default());
        let keys = toml::Table::try_from(Config {
            suggest_difficulty: Some(1.0),
            tls_ca_file: Some("ca.pem".into()),
            ..Config::default()
        });
        for key in keys.unwrap().keys() {
            let documented = text.lines().any(|line| {
                let line = line.trim_start_matches("# ");
                line.starts_with(&format!("{key} ="))
            });
            assert!(documented, "{key} is not in config/miner.toml");
        }
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        type Change = fn(&mut Config);
        let cases: [(&str, Change); 14] = [
            ("address", |c| c.address = "localhost".to_owned()),
            ("address", |c| c.address = "localhost:0".to_owned()),
            ("address", |c| c.address = ":34255".to_owned()),
            ("address", |c| c.address = "http://pool:80".to_owned()),
            ("tls_insecure", |c| {
                c.tls_insecure = true;
                c.tls_ca_file = Some("ca.pem".into());
            }),
            ("user", |c| c.user = String::new()),
            ("threads", |c| c.threads = 100_000),
            ("hashrate_limit", |c| c.hashrate_limit = f64::NAN),
            ("hashrate_limit", |c| c.hashrate_limit = -1.0),
            ("suggest_difficulty", |c| c.suggest_difficulty = Some(0.0)),
            ("connect_timeout_seconds", |c| {
                c.connect_timeout_seconds = 0.0
            }),
            ("silence_timeout_seconds", |c| {
                c.silence_timeout_seconds = f64::INFINITY
            }),
            ("reconnect_longest_seconds", |c| {
                c.reconnect_longest_seconds = 0.1
            }),
            ("status_interval_seconds", |c| {
                c.status_interval_seconds = -1.0
            }),
        ];
        assert!(Config::default().validate().is_ok());
        for (key, change) in cases {
            let mut config = Config::default();
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }

    #[test]
    fn there_is_always_a_thread() {
        assert!(Config::default().checked().unwrap().threads >= 1);
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        assert!(toml::from_str::<Config>("thread = 1").is_err());
    }
}
