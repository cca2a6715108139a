//! What `up` configures over each role's own defaults.

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use service::config::{self, Layers};
use service::http::Address;

use super::keys::Keys;
use crate::cli::UpArgs;
use crate::failure::Failure;
use crate::role::{self, Role};

/// The roles that `up` runs.
pub(super) const RUNS: [&str; 5] = ["pool", "translator", "miner", "pool-stats", "proxy-stats"];

/// How often pool and translator tell their stats services what has changed: somebody who tries it out looks on.
const TOLD_EVERY_MS: &str = "1000";

/// The roles' configurations: what `up` needs over each role's own defaults, then the environment, then `--set`.
pub(super) struct Configs<'a> {
    args: &'a UpArgs,
    keys: &'a Keys,
    /// `--set`, by role.
    overrides: Vec<(&'static str, &'a str, &'a str)>,
}

impl<'a> Configs<'a> {
    pub(super) fn new(args: &'a UpArgs, keys: &'a Keys) -> Result<Self, Failure> {
        let mut overrides = Vec::new();
        for (key, value) in &args.overrides {
            let split = key.split_once('.');
            let role = split.and_then(|(role, _)| RUNS.iter().copied().find(|name| *name == role));
            let (Some(role), Some((_, key))) = (role, split) else {
                return Err(Failure::configuration(format!(
                    "--set {key}: here the key begins with a role: {}",
                    RUNS.map(|name| format!("{name}.{key}")).join(", ")
                )));
            };
            overrides.push((role, key, value.as_str()));
        }
        Ok(Self {
            args,
            keys,
            overrides,
        })
    }

    pub(super) fn pool(&self, stats: SocketAddr) -> Result<pool::Config, Failure> {
        let Self { args, keys, .. } = self;
        if args
            .node
            .as_ref()
            .is_some_and(|url| !url.starts_with("http://"))
        {
            // Without the value: it may hold a password.
            return Err(Failure::configuration(
                "--node: use the URL of the node's RPC port, such as http://user:password@127.0.0.1:18443",
            ));
        }
        let payout = args.payout.as_ref().unwrap_or(&keys.payout);
        let mut base = vec![
            ("listen_address", "127.0.0.1:34254".to_owned()),
            (
                "authority_secret_key_file",
                keys.authority_file.display().to_string(),
            ),
            ("data_dir", args.data.join("pool").display().to_string()),
            ("payout", payout.clone()),
            // A CPU is to be seen working.
            ("shares_per_minute", "30".to_owned()),
            ("minimum_difficulty", "0.0001".to_owned()),
        ];
        base.extend(told(stats));
        if let Some(url) = &args.node {
            base.push(("template.source", "bitcoin-rpc".to_owned()));
            base.push(("template.url", url.clone()));
        }
        self.load::<role::Pool>(&base)
    }

    pub(super) fn translator(
        &self,
        pool: SocketAddr,
        stats: SocketAddr,
    ) -> Result<translator::Config, Failure> {
        let upstream = format!(
            "[{{ address = \"{}\", authority_public_key = \"{}\" }}]",
            local(pool),
            self.keys.authority
        );
        let mut base = vec![
            ("upstreams", upstream),
            // The pool's minimum is where a CPU starts.
            ("nominal_hashrate", "0.0".to_owned()),
        ];
        base.extend(told(stats));
        self.load::<role::Translator>(&base)
    }

    pub(super) fn miner(&self, translator: SocketAddr) -> Result<miner::Config, Failure> {
        let mut base = vec![("address", local(translator).to_string())];
        if let Some(threads) = self.args.threads {
            base.push(("threads", threads.to_string()));
        }
        if let Some(hashrate) = self.args.hashrate {
            base.push(("hashrate_limit", hashrate.to_string()));
        }
        self.load::<role::Miner>(&base)
    }

    pub(super) fn pool_stats(&self) -> Result<pool_stats::Config, Failure> {
        let defaults = pool_stats::Config::default();
        let base = self.stats_service("pool-stats", defaults.listen_address, defaults.http_address);
        self.load::<role::PoolStats>(&base)
    }

    pub(super) fn proxy_stats(&self) -> Result<proxy_stats::Config, Failure> {
        let defaults = proxy_stats::Config::default();
        let (events, pages) = (defaults.listen_address, defaults.http_address);
        let mut base = self.stats_service("proxy-stats", events, pages).to_vec();
        // Whoever looks at the page on this machine wants to know what to put into another one.
        if let Some(here) = here() {
            base.push(("web.miner_host", here.to_string()));
        }
        self.load::<role::ProxyStats>(&base)
    }

    /// The usual ports where they are free, so that what ran beside another stack before there were pages still does.
    fn stats_service(
        &self,
        name: &str,
        events: SocketAddr,
        pages: Address,
    ) -> [(&'static str, String); 3] {
        let database = self.args.data.join(format!("{name}.sqlite"));
        let pages = match pages {
            Address::At(address) => Address::At(usual_or_free(address)),
            Address::Off => Address::Off,
        };
        [
            ("listen_address", usual_or_free(events).to_string()),
            ("http_address", pages.to_string()),
            ("storage.url", format!("sqlite:{}", database.display())),
        ]
    }

    fn load<R: Role>(&self, base: &[(&str, String)]) -> Result<R::Config, Failure> {
        let set: Vec<(&str, &str)> = self
            .overrides
            .iter()
            .filter(|(role, ..)| *role == R::NAME)
            .map(|(_, key, value)| (*key, *value))
            .collect();
        let load = || {
            let mut layers = Layers::new(R::NAME);
            layers.overrides(base)?;
            layers.environment(std::env::vars_os())?;
            layers.overrides(&set)?;
            layers.load()
        };
        let wrong = |error: &dyn Display| Failure::configuration(format!("{}: {error}", R::NAME));
        let config = load().map_err(|error: config::ConfigError| wrong(&error))?;
        R::validate(&config).map_err(|error| wrong(&error))?;
        Ok(config)
    }
}

/// What a role needs to tell a stats service what it sees.
fn told(stats: SocketAddr) -> [(&'static str, String); 3] {
    [
        ("stats.address", local(stats).to_string()),
        // The machine's name, the default, is another one each time in a container, and the old one would be down for ever.
        ("stats.name", "main".to_owned()),
        ("stats.interval_ms", TOLD_EVERY_MS.to_owned()),
    ]
}

/// The address, or one on which the system chooses a port if that one is taken.
fn usual_or_free(address: SocketAddr) -> SocketAddr {
    match TcpListener::bind(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => SocketAddr::new(address.ip(), 0),
        // What else is wrong with it is found again, and told, when it is opened.
        Ok(_) | Err(_) => address,
    }
}

/// Where this process reaches a listener of its own.
pub(super) fn local(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => {
            SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()))
        }
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::from((Ipv6Addr::LOCALHOST, address.port()))
        }
        _ => address,
    }
}

/// Where other machines reach this one: the address that it would send from, if it has a network.
pub(super) fn here() -> Option<Ipv4Addr> {
    // Connecting a UDP socket sends nothing. The address is one that belongs to documents (RFC 5737).
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(here) => Some(here),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_replaced_by_a_free_one() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(usual_or_free(address), "127.0.0.1:0".parse().unwrap());
        drop(taken);
        assert_eq!(usual_or_free(address), address);
    }
}
