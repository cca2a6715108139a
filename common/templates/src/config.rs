//! What an operator can say about a source.

mod sources;

use std::{fmt, path::PathBuf};

use bitcoin::Network;
use reqwest::Url;
use serde::{Deserialize, Serialize, Serializer};
use sv2_connection::AuthorityPublicKey;

use crate::Error;

pub use sources::{FailoverConfig, Sources};

/// Which source, and its settings.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(tag = "source", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SourceConfig {
    /// A chain of its own inside the process.
    Embedded(EmbeddedConfig),
    /// A Bitcoin node over JSON-RPC.
    BitcoinRpc(RpcConfig),
    /// An SV2 template provider over Noise.
    Sv2(Sv2Config),
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self::Embedded(EmbeddedConfig::default())
    }
}

impl SourceConfig {
    /// Checks the values without any I/O.
    pub fn validate(&self) -> Result<(), Error> {
        match self {
            Self::Embedded(config) => config.validate(),
            Self::BitcoinRpc(config) => config.endpoint().map(drop).and(config.validate()),
            Self::Sv2(config) => config.validate(),
        }
    }
}

/// A chain for trying things out: real headers and real proof of work, no network, forgotten when the process ends.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedConfig {
    /// The time between blocks that the difficulty aims at.
    pub block_interval_seconds: u32,
    /// Expected hashes for the first block.
    pub first_block_hashes: u64,
    /// Expected hashes for the easiest block there can be.
    pub minimum_block_hashes: u64,
    /// How often a new template is made on the same tip.
    pub refresh_interval_seconds: u32,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            block_interval_seconds: 20,
            first_block_hashes: 1 << 22,
            minimum_block_hashes: 1 << 20,
            refresh_interval_seconds: 30,
        }
    }
}

impl EmbeddedConfig {
    fn validate(&self) -> Result<(), Error> {
        within(
            "block_interval_seconds",
            self.block_interval_seconds.into(),
            1,
            3600,
        )?;
        within(
            "minimum_block_hashes",
            self.minimum_block_hashes,
            2,
            1 << 62,
        )?;
        within(
            "first_block_hashes",
            self.first_block_hashes,
            self.minimum_block_hashes,
            1 << 62,
        )?;
        within(
            "refresh_interval_seconds",
            self.refresh_interval_seconds.into(),
            1,
            3600,
        )
    }
}

/// A Bitcoin Core or Knots node that answers `getblocktemplate`.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RpcConfig {
    /// `http://host:port` or `http://user:password@host:port`. The password is never printed.
    #[serde(serialize_with = "without_password")]
    pub url: String,
    /// The node's cookie file, used where `url` names no user.
    pub cookie_file: Option<PathBuf>,
    /// How often a template is asked for beside the long poll.
    pub refresh_interval_seconds: u32,
    /// How long the node may take for one answer (a long poll excepted).
    pub timeout_seconds: u32,
    /// For how long a solved block is offered to a node that cannot be reached.
    pub submit_seconds: u32,
    /// How long the last template counts as fresh when the node gives no other.
    pub stale_after_seconds: u32,
}

impl Default for RpcConfig {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8332".to_owned(),
            cookie_file: None,
            refresh_interval_seconds: 30,
            timeout_seconds: 20,
            submit_seconds: 60,
            stale_after_seconds: 120,
        }
    }
}

impl fmt::Debug for RpcConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcConfig")
            .field("url", &redacted(&self.url))
            .field("cookie_file", &self.cookie_file)
            .field("refresh_interval_seconds", &self.refresh_interval_seconds)
            .field("timeout_seconds", &self.timeout_seconds)
            .field("submit_seconds", &self.submit_seconds)
            .field("stale_after_seconds", &self.stale_after_seconds)
            .finish()
    }
}

/// The node's address and what proves who asks.
#[derive(Clone)]
pub(crate) struct Endpoint {
    /// Without credentials, so that it can be printed.
    pub(crate) url: Url,
    pub(crate) credentials: Credentials,
}

#[derive(Clone)]
pub(crate) enum Credentials {
    None,
    Password {
        user: String,
        password: String,
    },
    /// Read anew for each request: the node writes another one whenever it starts.
    Cookie(PathBuf),
}

impl RpcConfig {
    fn validate(&self) -> Result<(), Error> {
        within(
            "refresh_interval_seconds",
            self.refresh_interval_seconds.into(),
            1,
            3600,
        )?;
        within("timeout_seconds", self.timeout_seconds.into(), 1, 3600)?;
        within("submit_seconds", self.submit_seconds.into(), 1, 3600)?;
        within(
            "stale_after_seconds",
            self.stale_after_seconds.into(),
            1,
            86_400,
        )
    }

    pub(crate) fn endpoint(&self) -> Result<Endpoint, Error> {
        let wrong = |problem: String| Error::Config {
            key: "url",
            problem,
        };
        // The parser's own message holds no part of the URL, so no password either.
        let mut url = Url::parse(&self.url).map_err(|error| wrong(error.to_string()))?;
        if url.scheme() != "http" {
            return Err(wrong(format!(
                "a node speaks plain http, not {} (use a tunnel where it is far away)",
                url.scheme()
            )));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(wrong("names no host".to_owned()));
        }
        let user =
            decode(url.username()).ok_or_else(|| wrong("the user is not UTF-8".to_owned()))?;
        let password = decode(url.password().unwrap_or_default())
            .ok_or_else(|| wrong("the password is not UTF-8".to_owned()))?;
        let credentials = match (&self.cookie_file, user.is_empty()) {
            (Some(_), false) => {
                return Err(Error::Config {
                    key: "cookie_file",
                    problem: "url names a user already; only one of both can be".to_owned(),
                });
            }
            (Some(file), true) => Credentials::Cookie(file.clone()),
            (None, true) => Credentials::None,
            (None, false) => Credentials::Password { user, password },
        };
        let cleared = url.set_username("").and_then(|()| url.set_password(None));
        cleared.map_err(|()| wrong("cannot carry a user".to_owned()))?;
        Ok(Endpoint { url, credentials })
    }
}

/// An SV2 template provider, such as `hashpool template-provider`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sv2Config {
    /// `host:port`.
    pub address: String,
    /// The key that the provider proves itself with; whoever answers is trusted without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority_public_key: Option<AuthorityPublicKey>,
    /// The chain, in a node's words (`main`, `testnet4`, `signet`, `regtest`): the protocol does not tell it.
    pub network: String,
    /// Bytes that the provider has to leave free for the outputs added to the coinbase.
    pub coinbase_output_bytes: u32,
    /// Signature operations that it has to leave free for them.
    pub coinbase_output_sigops: u16,
    /// How long to wait for a solved block to become the tip: the protocol has no other answer.
    pub confirm_seconds: u32,
    /// How long the last template counts as fresh without a connection.
    pub stale_after_seconds: u32,
}

impl Default for Sv2Config {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:8442".to_owned(),
            authority_public_key: None,
            network: "main".to_owned(),
            coinbase_output_bytes: 400,
            coinbase_output_sigops: 20,
            confirm_seconds: 30,
            stale_after_seconds: 120,
        }
    }
}

impl Sv2Config {
    fn validate(&self) -> Result<(), Error> {
        let (host, port) = self.host_and_port();
        if host.is_empty() || host.len() > 255 || port == 0 {
            return Err(Error::Config {
                key: "address",
                problem: format!("{} is not host:port", self.address),
            });
        }
        self.network()?;
        // More does not fit a message that hands a block over, whose coinbase has less than 64 KiB.
        within(
            "coinbase_output_bytes",
            self.coinbase_output_bytes.into(),
            34,
            60_000,
        )?;
        within(
            "coinbase_output_sigops",
            self.coinbase_output_sigops.into(),
            0,
            10_000,
        )?;
        within("confirm_seconds", self.confirm_seconds.into(), 1, 3600)?;
        within(
            "stale_after_seconds",
            self.stale_after_seconds.into(),
            1,
            86_400,
        )
    }

    pub(crate) fn network(&self) -> Result<Network, Error> {
        Network::from_core_arg(&self.network).map_err(|_| Error::Config {
            key: "network",
            problem: format!(
                "{} is none of main, testnet4, signet, regtest",
                self.network
            ),
        })
    }

    /// An IPv6 address stands in brackets; port 0 where there is none.
    pub(crate) fn host_and_port(&self) -> (&str, u16) {
        let (host, port) = self.address.rsplit_once(':').unwrap_or_default();
        (host, port.parse().unwrap_or(0))
    }
}

fn within(key: &'static str, value: u64, least: u64, most: u64) -> Result<(), Error> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let problem = format!("{value} is not between {least} and {most}");
    Err(Error::Config { key, problem })
}

/// Undoes the percent encoding of a URL's user or password.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'%').then(|| tail.get(..2)).flatten();
        let value = escaped.and_then(|digits| hex::decode(digits).ok());
        match value.as_deref() {
            Some([value]) => {
                bytes.push(*value);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

fn redacted(url: &str) -> String {
    if !url.contains('@') {
        return url.to_owned();
    }
    // What cannot be read may still hold a password.
    let unreadable = "(not a URL)".to_owned();
    let Ok(mut parsed) = Url::parse(url) else {
        return unreadable;
    };
    match parsed.set_password(Some("****")) {
        Ok(()) => parsed.to_string(),
        Err(()) => unreadable,
    }
}

fn without_password<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&redacted(url))
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn rpc(url: &str) -> RpcConfig {
        RpcConfig {
            url: url.to_owned(),
            ..RpcConfig::default()
        }
    }

    #[test]
    fn a_password_is_used_but_never_printed() {
        let config = rpc("http://me:p%40ss@127.0.0.1:18443");
        let endpoint = config.endpoint().unwrap();
        assert_eq!(endpoint.url.as_str(), "http://127.0.0.1:18443/");
        assert!(matches!(endpoint.credentials,
            Credentials::Password { user, password } if user == "me" && password == "p@ss"));
        let config = SourceConfig::BitcoinRpc(config);
        let printed = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(!printed.contains("p%40ss"), "{printed}");
        assert!(!format!("{:?}", rpc("me:p%40ss@nowhere:x")).contains("p%40ss"));
    }

    #[test]
    fn what_cannot_be_an_address_of_a_node_is_refused() {
        for url in [
            "",
            "127.0.0.1",
            "https://127.0.0.1",
            "ftp://127.0.0.1",
            "http://",
        ] {
            let config = SourceConfig::BitcoinRpc(rpc(url));
            assert!(
                matches!(config.validate(), Err(Error::Config { key: "url", .. })),
                "{url}"
            );
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name() {
        let config: SourceConfig =
            from_value(json!({"source": "bitcoin-rpc", "url": "http://a"})).unwrap();
        assert_eq!(config, SourceConfig::BitcoinRpc(rpc("http://a")));
        for source in ["embedded", "bitcoin-rpc"] {
            let error =
                from_value::<SourceConfig>(json!({"source": source, "urls": 1})).unwrap_err();
            assert!(error.to_string().contains("urls"), "{error}");
        }
        assert!(from_value::<SourceConfig>(json!({"source": "sv3"})).is_err());
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_its_key() {
        let config = EmbeddedConfig {
            block_interval_seconds: 0,
            ..EmbeddedConfig::default()
        };
        let error = SourceConfig::Embedded(config).validate().unwrap_err();
        assert!(
            error.to_string().contains("block_interval_seconds: 0"),
            "{error}"
        );
    }
}
