//! What an operator can say about the sender.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::Token;

/// The longest name and token.
const MAX_TEXT: usize = 128;

/// Where a role tells what it sees; `[stats]` in its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Host and port of the stats service; `off` or nothing for none.
    pub address: String,
    /// Tells senders of one role apart; the machine's name if it is empty.
    pub name: String,
    /// The secret that the service asks for, for the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// File with that secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Whether the service is spoken to over TLS.
    pub tls: bool,
    /// Certificates (PEM) of those who may sign the service's; those that the system trusts if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The time from one look to the next, in milliseconds; the service hears something at least so often.
    pub interval_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: "off".to_owned(),
            name: String::new(),
            token: None,
            token_file: None,
            tls: false,
            ca_file: None,
            interval_ms: 5000,
        }
    }
}

impl Config {
    /// Checks what can be checked without files and sockets.
    ///
    /// # Errors
    /// [`Error::Config`] with the first value that cannot be.
    pub fn validate(&self) -> Result<(), Error> {
        self.host_and_port()?;
        if self.name.len() > MAX_TEXT || self.name.chars().any(char::is_control) {
            let problem = format!("has at most {MAX_TEXT} bytes and no control characters");
            return Err(wrong("stats.name", problem));
        }
        if !(100..=60_000).contains(&self.interval_ms) {
            let problem = "from 100 to 60000 is possible".to_owned();
            return Err(wrong("stats.interval_ms", problem));
        }
        Ok(())
    }

    /// Whether there is to be a service.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !matches!(&*self.address, "" | "off")
    }

    /// Where the service is, if there is to be one.
    pub(super) fn host_and_port(&self) -> Result<Option<(String, u16)>, Error> {
        if !self.is_on() {
            return Ok(None);
        }
        let parts = || {
            let (host, port) = self.address.rsplit_once(':')?;
            // An IPv6 address stands in brackets.
            let bare = host
                .strip_prefix('[')
                .and_then(|host| host.strip_suffix(']'));
            let host = match bare {
                Some(bare) => bare,
                None => Some(host).filter(|host| !host.contains(':'))?,
            };
            let port = port.parse().ok().filter(|port| *port > 0)?;
            (!host.is_empty()).then(|| (host.to_owned(), port))
        };
        match parts() {
            Some(parts) => Ok(Some(parts)),
            None => {
                let problem = format!("{:?} is neither host:port nor \"off\"", self.address);
                Err(wrong("stats.address", problem))
            }
        }
    }

    pub(super) fn name(&self) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        let host = gethostname::gethostname();
        let host = host.to_string_lossy();
        let usable = host.len() <= MAX_TEXT && !host.chars().any(char::is_control);
        if usable && !host.is_empty() {
            host.into_owned()
        } else {
            "unnamed".to_owned()
        }
    }

    pub(super) fn token(&self) -> Result<Option<Token>, Error> {
        let (Some(path), None) = (&self.token_file, &self.token) else {
            return Ok(self.token.clone());
        };
        let token = Token::read(path).map_err(|problem| wrong("stats.token_file", problem))?;
        Ok(Some(token))
    }

    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }
}

pub(super) fn wrong(key: &'static str, problem: String) -> Error {
    Error::Config { key, problem }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn at(address: &str) -> Result<Option<(String, u16)>, Error> {
        let config = Config {
            address: address.to_owned(),
            ..Config::default()
        };
        config.host_and_port()
    }

    #[test]
    fn an_address_is_a_host_with_a_port_or_off() {
        let some = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(at("").unwrap(), None);
        assert_eq!(at("off").unwrap(), None);
        assert_eq!(at("127.0.0.1:9083").unwrap(), some("127.0.0.1", 9083));
        assert_eq!(at("stats.example:1").unwrap(), some("stats.example", 1));
        assert_eq!(at("[::1]:9083").unwrap(), some("::1", 9083));
        for nonsense in ["stats", ":1", "stats:", "stats:0", "stats:65536", "::1:9"] {
            assert!(at(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn a_token_comes_from_its_file_and_is_not_printed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let config = Config {
            token_file: Some(path.clone()),
            ..Config::default()
        };
        assert!(config.token().is_err(), "there is no file");
        fs::write(&path, "\n").unwrap();
        assert!(config.token().is_err(), "there is nothing in it");
        fs::write(&path, "hunter2\n").unwrap();
        let token = config.token().unwrap().unwrap();
        assert_eq!(token.reveal(), "hunter2");
        let config = Config {
            token: Some(token),
            ..config
        };
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn every_sender_has_a_name() {
        assert!(!Config::default().name().is_empty());
    }
}
