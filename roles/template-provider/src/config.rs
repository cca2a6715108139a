//! What an operator can say about the template provider.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use service::{http::Address, listener::Limits};
use sv2_connection::{Authority, AuthorityKey, AuthoritySecretKey, Options};
use templates::{FailoverConfig, Sources};

use crate::{Error, session::Settings};

/// The configuration of the template provider; `config/template-provider.toml` documents each key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where pools and job declarators connect.
    pub listen_address: SocketAddr,
    /// Where `/healthz`, `/readyz`, `/status` and `/metrics` are served, or `off`.
    pub http_address: Address,
    /// File with the authority's secret key, made by `hashpool keygen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority_secret_key_file: Option<PathBuf>,
    /// The authority's secret key itself, for the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority_secret_key: Option<AuthoritySecretKey>,
    /// Time from accepting a connection to its completed set-up, the Noise handshake included.
    pub setup_timeout_seconds: u32,
    /// Time for a peer to take what is written to it.
    pub write_timeout_seconds: u32,
    /// Templates that each connection can still ask for and solve.
    pub templates_per_connection: u32,
    /// Connections.
    pub limits: Limits,
    /// Where templates come from.
    pub template: Sources,
    /// When another of several sources takes over.
    pub failover: FailoverConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen_address: SocketAddr::from(([127, 0, 0, 1], 8442)),
            http_address: Address::loopback(9111),
            authority_secret_key_file: None,
            authority_secret_key: None,
            setup_timeout_seconds: 10,
            write_timeout_seconds: 15,
            templates_per_connection: 16,
            limits: Limits {
                connections: 1000,
                connections_per_address: 100,
                ..Limits::default()
            },
            template: Sources::default(),
            failover: FailoverConfig::default(),
        }
    }
}

impl Config {
    /// Checks all that can be checked without the network or a node.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |key, problem: &str| {
            Err(Error::Config {
                key,
                problem: problem.to_owned(),
            })
        };
        if self.setup_timeout_seconds == 0 {
            return wrong("setup_timeout_seconds", "must be at least 1");
        }
        if self.write_timeout_seconds == 0 {
            return wrong("write_timeout_seconds", "must be at least 1");
        }
        if !(2..=1000).contains(&self.templates_per_connection) {
            return wrong("templates_per_connection", "2 to 1000 are possible");
        }
        self.authority_key().validate()?;
        self.limits.validate()?;
        self.template.validate()?;
        self.failover.validate()?;
        Ok(())
    }

    fn authority_key(&self) -> AuthorityKey<'_> {
        AuthorityKey {
            key: self.authority_secret_key.as_ref(),
            file: self.authority_secret_key_file.as_deref(),
        }
    }

    pub(crate) fn authority(&self) -> Result<Authority, Error> {
        Ok(self.authority_key().load()?)
    }

    pub(crate) fn session_settings(&self) -> Settings {
        Settings {
            setup_timeout: Duration::from_secs(self.setup_timeout_seconds.into()),
            remembered: usize::try_from(self.templates_per_connection).unwrap_or(usize::MAX),
        }
    }

    pub(crate) fn connection_options(&self) -> Options {
        Options {
            handshake_timeout: Duration::from_secs(self.setup_timeout_seconds.into()),
            write_timeout: Duration::from_secs(self.write_timeout_seconds.into()),
            // The largest message that a client may send is a solution: a coinbase of up to 64 KiB, and 22 bytes.
            largest_frame: 66_000,
            ..Options::default()
        }
    }
}
