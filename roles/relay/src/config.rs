//! What an operator can set. `config/relay.toml` has every key with its default and meaning.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use service::http;
use service::listener::{Limits, Network, ProxyProtocol};

use crate::Error;
use crate::billing::StorageConfig;
use crate::clients::{Client, UNKNOWN};
use crate::pattern::Pattern;
use crate::watcher::LineLimits;

/// Within these, a line can hold any message of the field, and a connection cannot cost much memory.
const LINE_BYTES: std::ops::RangeInclusive<usize> = 1024..=1024 * 1024;

/// The relay's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where SV1 miners connect.
    pub listen_address: SocketAddr,
    /// Further addresses, such as a port for each client.
    pub also_listen: Vec<SocketAddr>,
    /// Where health, status and metrics are answered over HTTP; "off" for nowhere.
    pub http_address: http::Address,
    /// Where connections can be relayed to.
    pub pools: Vec<Pool>,
    /// Which of the pools a connection is relayed to. Without any: the pools in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Whose connections are counted apart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<Client>,
    /// Time for a pool to be found and connected to, all attempts together.
    pub connect_timeout_seconds: u64,
    /// Time for one attempt, while there is another address or pool to be tried.
    pub attempt_timeout_seconds: u64,
    /// The first time that a pool is passed over after a failure; doubled with each further one.
    pub pool_retry_first_ms: u64,
    /// The longest time that a failing pool is passed over.
    pub pool_retry_last_seconds: u64,
    /// Time without a byte in either direction, after which a connection is closed.
    pub idle_timeout_seconds: u64,
    /// Time for connections to end by themselves when the relay stops.
    pub drain_seconds: u64,
    /// The longest line of a miner that is looked at, in bytes. Longer ones are passed on too.
    pub miner_line_bytes: usize,
    /// The longest line of a pool that is looked at, in bytes. Longer ones are passed on too.
    pub pool_line_bytes: usize,
    /// How many miners may connect.
    pub limits: Limits,
    /// Whether miners come through a load balancer that says who calls.
    pub proxy_protocol: ProxyProtocol,
    /// TLS for miners, on a port of its own under the same limits.
    pub tls: Tls,
    /// What each client used, kept for bills.
    pub storage: StorageConfig,
    /// Who may change the relay while it runs.
    pub admin: crate::admin::Config,
    /// Which stats service is told what happens.
    pub stats: stats::sender::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen_address: SocketAddr::from(([0, 0, 0, 0], 3333)),
            also_listen: Vec::new(),
            http_address: http::Address::loopback(9090),
            pools: vec![Pool {
                name: "pool".into(),
                address: "127.0.0.1:34255".into(),
                ..Pool::default()
            }],
            routes: Vec::new(),
            clients: Vec::new(),
            connect_timeout_seconds: 30,
            attempt_timeout_seconds: 5,
            pool_retry_first_ms: 1_000,
            pool_retry_last_seconds: 60,
            idle_timeout_seconds: 300,
            drain_seconds: 30,
            miner_line_bytes: 16 * 1024,
            pool_line_bytes: 64 * 1024,
            limits: Limits::default(),
            proxy_protocol: ProxyProtocol::default(),
            tls: Tls::default(),
            storage: StorageConfig::default(),
            admin: crate::admin::Config::default(),
            stats: stats::sender::Config::default(),
        }
    }
}

/// Where connections can be relayed to: a pool, or a translator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pool {
    /// What routes and logs call it.
    pub name: String,
    /// Host name or IP address, and port. The host is the label `pool_host` of metrics.
    pub address: String,
    /// Whether it is spoken to over TLS.
    pub tls: bool,
    /// PEM: the certificates of those who may sign the pool's. Without it, those that the system trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Its share of the connections of its group, beside the others' weights.
    pub weight: u32,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            name: String::new(),
            address: String::new(),
            tls: false,
            ca_file: None,
            weight: 1,
        }
    }
}

impl Pool {
    /// Host and port; `None` if the address is not both.
    pub(crate) fn host_and_port(&self) -> Option<(&str, u16)> {
        let (host, port) = self.address.rsplit_once(':')?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port > 0)?;
        (!host.is_empty()).then_some((host, port))
    }
}

/// Which pools a connection is relayed to. Of each kind of condition that is given, one must fit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Route {
    /// Clients that are known by network and port alone. No condition if empty.
    pub clients: Vec<String>,
    /// Where the miner calls from. No condition if empty.
    #[schema(value_type = Vec<String>)]
    pub networks: Vec<Network>,
    /// The port that was called. No condition if empty.
    pub ports: Vec<u16>,
    /// Not possible: always refused, with an explanation.
    #[serde(skip_serializing)]
    #[schema(value_type = Vec<String>)]
    pub user_names: Vec<Pattern>,
    /// Pools by name. Those of a group share the connections; the next group is for when none of the one before can be had.
    pub groups: Vec<Vec<String>>,
    /// Who may work: names that miners authorise or submit with. Everybody if empty.
    #[schema(value_type = Vec<String>)]
    pub workers: Vec<Pattern>,
}

/// TLS for miners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Where SV1 miners connect over TLS; "off" for nowhere.
    pub listen_address: http::Address,
    /// PEM: the certificate and those that lead to an authority.
    pub certificate_file: PathBuf,
    /// PEM: the certificate's private key.
    pub key_file: PathBuf,
    /// Time for the handshake.
    pub handshake_timeout_seconds: u64,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            listen_address: http::Address::Off,
            certificate_file: PathBuf::new(),
            key_file: PathBuf::new(),
            handshake_timeout_seconds: 10,
        }
    }
}

impl Config {
    /// Checks every value, without touching the network.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn validate(&self) -> Result<(), Error> {
        self.check_numbers()?;
        self.check_pools()?;
        self.check_clients()?;
        self.check_routes()?;
        self.storage.validate()?;
        self.stats.validate()?;
        self.admin.validate()?;
        crate::tls::check(self)
    }

    fn check_numbers(&self) -> Result<(), Error> {
        for (key, value) in [
            ("connect_timeout_seconds", self.connect_timeout_seconds),
            ("attempt_timeout_seconds", self.attempt_timeout_seconds),
            ("pool_retry_first_ms", self.pool_retry_first_ms),
            ("pool_retry_last_seconds", self.pool_retry_last_seconds),
            ("idle_timeout_seconds", self.idle_timeout_seconds),
            (
                "tls.handshake_timeout_seconds",
                self.tls.handshake_timeout_seconds,
            ),
        ] {
            if value == 0 {
                return wrong(key, "must not be 0".into());
            }
        }
        for (key, value) in [
            ("connect_timeout_seconds", self.connect_timeout_seconds),
            ("attempt_timeout_seconds", self.attempt_timeout_seconds),
            ("pool_retry_first_ms", self.pool_retry_first_ms),
            ("pool_retry_last_seconds", self.pool_retry_last_seconds),
            ("idle_timeout_seconds", self.idle_timeout_seconds),
            ("drain_seconds", self.drain_seconds),
        ] {
            // So that a moment that lies so far ahead can still be named.
            if value > u64::from(u32::MAX) {
                return wrong(key, format!("{value} is too large"));
            }
        }
        for (key, bytes) in [
            ("miner_line_bytes", self.miner_line_bytes),
            ("pool_line_bytes", self.pool_line_bytes),
        ] {
            if !LINE_BYTES.contains(&bytes) {
                let (least, most) = (LINE_BYTES.start(), LINE_BYTES.end());
                return wrong(key, format!("{bytes} is not within {least} to {most}"));
            }
        }
        Ok(())
    }

    fn check_pools(&self) -> Result<(), Error> {
        if self.pools.is_empty() {
            return wrong("pools", "there must be at least one pool".into());
        }
        let mut names = BTreeSet::new();
        for pool in &self.pools {
            if pool.name.is_empty() {
                let problem = format!("the pool at {:?} has none", pool.address);
                return wrong("pools.name", problem);
            }
            if !names.insert(&pool.name) {
                return wrong("pools.name", format!("{:?} is there twice", pool.name));
            }
            if pool.host_and_port().is_none() {
                let problem = format!("{:?} is not host:port", pool.address);
                return wrong("pools.address", problem);
            }
            if pool.weight == 0 {
                let problem = format!("{:?} would never be used; use 1 or more", pool.name);
                return wrong("pools.weight", problem);
            }
        }
        Ok(())
    }

    fn check_clients(&self) -> Result<(), Error> {
        for client in &self.clients {
            if client.id.is_empty() || client.id == UNKNOWN {
                let problem = format!("{:?} is no name for a client", client.id);
                return wrong("clients.id", problem);
            }
            if client.user_names.is_empty() && client.networks.is_empty() && client.ports.is_empty()
            {
                let problem = format!(
                    "{:?} has neither user_names nor networks nor ports, so everybody would be this client",
                    client.id
                );
                return wrong("clients", problem);
            }
            if client.user_names.iter().any(Pattern::is_empty) {
                return wrong("clients.user_names", "an empty name fits nobody".into());
            }
        }
        Ok(())
    }

    pub(crate) fn check_routes(&self) -> Result<(), Error> {
        for route in &self.routes {
            if !route.user_names.is_empty() {
                return wrong("routes.user_names", NAMES_COME_LATER.into());
            }
            for id in &route.clients {
                let mut rules = self.clients.iter().filter(|client| client.id == *id);
                if rules.clone().next().is_none() {
                    return wrong("routes.clients", format!("there is no client {id:?}"));
                }
                if rules.any(|rule| !rule.user_names.is_empty()) {
                    let problem = format!("{id:?} is known by user name. {NAMES_COME_LATER}");
                    return wrong("routes.clients", problem);
                }
            }
            if route.groups.iter().all(Vec::is_empty) {
                return wrong("routes.groups", "a route needs a pool".into());
            }
            for name in route.groups.iter().flatten() {
                if self.pools.iter().all(|pool| pool.name != *name) {
                    return wrong("routes.groups", format!("there is no pool {name:?}"));
                }
            }
            if route.workers.iter().any(Pattern::is_empty) {
                return wrong("routes.workers", "an empty name fits nobody".into());
            }
        }
        Ok(())
    }

    pub(crate) fn line_limits(&self) -> LineLimits {
        LineLimits {
            miner: self.miner_line_bytes,
            pool: self.pool_line_bytes,
        }
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_seconds)
    }
}

/// Why a route cannot ask for a name.
const NAMES_COME_LATER: &str = "A miner says its user name only after the pool has answered its first request, so the pool has to be \
     chosen before: use networks or ports (also_listen gives a client a port of its own)";

fn wrong<T>(key: &'static str, problem: String) -> Result<T, Error> {
    Err(Error::Config { key, problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../config/relay.toml");

    #[test]
    fn the_example_file_holds_every_key_with_its_default() {
        let example: toml::Table = toml::from_str(EXAMPLE).unwrap();
        let default = toml::Table::try_from(Config::default()).unwrap();
        assert_eq!(example, default);
        let config: Config = toml::from_str(EXAMPLE).unwrap();
        assert_eq!(config, Config::default());
        config.validate().unwrap();
    }

    /// What the example shows as comments works when it is uncommented.
    #[test]
    fn the_example_of_routes_and_clients_is_a_configuration() {
        let shown: String = EXAMPLE
            .lines()
            .map(|line| line.strip_prefix("#~ ").unwrap_or(line).to_owned() + "\n")
            .collect();
        let config: Config = toml::from_str(&shown).unwrap();
        config.validate().unwrap();
        assert!(config.routes.len() > 1 && config.clients.len() > 1);
    }

    #[test]
    fn a_wrong_value_is_named_by_its_key() {
        for (toml, key) in [
            ("pools = []", "pools"),
            (
                "pools = [{ name = 'a', address = 'pool.example' }]",
                "pools.address",
            ),
            (
                "pools = [{ name = 'a', address = ':3333' }]",
                "pools.address",
            ),
            ("pools = [{ name = 'a', address = 'b:0' }]", "pools.address"),
            ("pools = [{ address = 'b:1' }]", "pools.name"),
            (
                "pools = [{ name = 'a', address = 'b:1' }, { name = 'a', address = 'b:2' }]",
                "pools.name",
            ),
            (
                "pools = [{ name = 'a', address = 'b:1', weight = 0 }]",
                "pools.weight",
            ),
            ("clients = [{ ports = [1] }]", "clients.id"),
            ("clients = [{ id = 'unknown', ports = [1] }]", "clients.id"),
            ("clients = [{ id = 'a' }]", "clients"),
            (
                "clients = [{ id = 'a', user_names = [''] }]",
                "clients.user_names",
            ),
            ("routes = [{ groups = [] }]", "routes.groups"),
            ("routes = [{ groups = [['nowhere']] }]", "routes.groups"),
            (
                "routes = [{ clients = ['nobody'], groups = [['pool']] }]",
                "routes.clients",
            ),
            (
                "routes = [{ groups = [['pool']], workers = [''] }]",
                "routes.workers",
            ),
            ("idle_timeout_seconds = 0", "idle_timeout_seconds"),
            ("drain_seconds = 99999999999", "drain_seconds"),
            ("miner_line_bytes = 10", "miner_line_bytes"),
            (
                "tls = { listen_address = '127.0.0.1:0' }",
                "tls.certificate_file",
            ),
        ] {
            let config: Config = toml::from_str(toml).unwrap();
            let error = config.validate().unwrap_err();
            assert!(
                matches!(error, Error::Config { key: seen, .. } if seen == key),
                "{toml}: {error}"
            );
        }
    }

    #[test]
    fn a_route_by_user_name_is_refused_with_the_reason() {
        for toml in [
            "routes = [{ user_names = ['acme.*'], groups = [['pool']] }]",
            "clients = [{ id = 'acme', user_names = ['acme.*'] }]
             routes = [{ clients = ['acme'], groups = [['pool']] }]",
        ] {
            let config: Config = toml::from_str(toml).unwrap();
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains("use networks or ports"), "{error}");
        }
    }
}
