//! What an operator can set. `config/translator.toml` has every key with its default and meaning.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use service::http;
use service::listener::{Limits, ProxyProtocol};
use work::{Difficulty, Hashrate, Target};

use crate::Error;
use crate::identity::Identity;
use crate::session::{Acknowledge, Settings};
use crate::tls::TlsConfig;
use crate::upstream::{
    BATCH_OF_ANSWERS, Complaints, LastIdentity, Patience, Plan, Record, Roster, Upstream, Waits,
};
use crate::user_agents::{UserAgent, UserAgents};

/// The bits that BIP 320 leaves to miners.
const BIP_320_MASK: u32 = 0x1fff_e000;

/// No pool gets faster by more, and each takes memory here and there.
const MOST_CONNECTIONS: usize = 1024;

/// As many answers to shares as a miner's mailbox holds.
const MOST_IN_FLIGHT: usize = 1 << 16;

/// The translator's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where SV1 miners connect.
    pub listen_address: SocketAddr,
    /// Where health, status and metrics are answered over HTTP; "off" for nowhere.
    pub http_address: http::Address,
    /// Pools, in the order in which they are tried.
    pub upstreams: Vec<Upstream>,
    /// Connections to the pool, over which the miners are spread; 0 is one per processor core, or one if channels are shared.
    pub upstream_connections: usize,
    /// The name under which miners work, with `{user}`, `{account}` and `{worker}` standing for theirs; empty is `{user}`.
    pub user_identity: String,
    /// When a miner is told what became of its share.
    pub acknowledge: Acknowledge,
    /// In H/s: what the pool is told about a miner that suggests no difficulty.
    pub nominal_hashrate: f64,
    /// SV1 difficulty below which no miner gets; 0 is no floor.
    pub minimum_difficulty: f64,
    /// SV1 difficulty above which no miner gets, whatever its channel asks; 0 is no ceiling.
    pub maximum_difficulty: f64,
    /// Miners of one account share a channel.
    pub aggregate: bool,
    /// What a miner's difficulty aims at where channels are shared.
    pub shares_per_minute: f64,
    /// Bytes of extranonce2, 2 to 8.
    pub extranonce2_size: u8,
    /// The bits of the version that miners may roll.
    pub version_rolling_mask: u32,
    /// Shares of one miner that the pool has not answered, at which the miner is not read.
    pub max_in_flight_shares: usize,
    /// Requests that wait for one pool connection to take them; when it is full, miners are not read.
    pub upstream_queue: usize,
    /// Malformed lines that a miner may send before it is disconnected.
    pub max_malformed_lines: u32,
    /// Lines of one miner per second, with bursts of one second's worth; beyond, it is not read. 0 is no limit.
    pub lines_per_second: u32,
    /// Time for a miner to authorise.
    pub setup_timeout_seconds: u64,
    /// Time without a line, after which a miner is disconnected.
    pub idle_timeout_seconds: u64,
    /// Time for a miner to take what is sent to it.
    pub write_timeout_seconds: u64,
    /// Time for the pool to answer the last shares of a miner that left.
    pub linger_seconds: u64,
    /// The first wait before a new connection to a pool; doubled after each failure.
    pub reconnect_first_ms: u64,
    /// The longest wait before a new connection to a pool.
    pub reconnect_last_seconds: u64,
    /// Time for a pool for each step of connecting to it.
    pub connect_timeout_seconds: u64,
    /// How long a pool in front of the one that miners work for must be good before they go back to it; 0 is for ever.
    pub failback_after_seconds: u64,
    /// Time for a pool to answer any request for a channel.
    pub channel_patience_seconds: u64,
    /// Time for a pool to send work after it has opened channels.
    pub work_patience_seconds: u64,
    /// Time for a pool to answer any share, once there are more of them than a pool may answer in a batch.
    pub answer_patience_seconds: u64,
    /// What miners of one kind need, by what they call themselves.
    pub user_agents: Vec<UserAgent>,
    /// Time without any pool, after which miners are told; 0 is never.
    pub outage_message_seconds: u64,
    /// Time without any pool, after which miners are disconnected and the port is closed until one is back; 0 is never.
    pub outage_close_seconds: u64,
    /// Whether miners are asked to come again when the translator stops.
    pub reconnect_on_shutdown: bool,
    /// How many miners may connect.
    pub limits: Limits,
    /// Whether miners come through a load balancer that says who calls.
    pub proxy_protocol: ProxyProtocol,
    /// SV1 over TLS, on a port of its own under the same limits.
    pub tls: TlsConfig,
    /// Which stats service is told what happens.
    pub stats: stats::sender::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen_address: SocketAddr::from(([0, 0, 0, 0], 34255)),
            http_address: http::Address::loopback(9109),
            upstreams: vec![Upstream {
                address: "127.0.0.1:34254".into(),
                authority_public_key: None,
            }],
            upstream_connections: 0,
            user_identity: String::new(),
            acknowledge: Acknowledge::Local,
            nominal_hashrate: 1e12,
            minimum_difficulty: 0.0,
            maximum_difficulty: 0.0,
            aggregate: false,
            shares_per_minute: 6.0,
            extranonce2_size: 4,
            version_rolling_mask: BIP_320_MASK,
            max_in_flight_shares: 1024,
            upstream_queue: 1024,
            max_malformed_lines: 10,
            lines_per_second: 5_000,
            setup_timeout_seconds: 60,
            idle_timeout_seconds: 900,
            write_timeout_seconds: 15,
            linger_seconds: 10,
            reconnect_first_ms: 500,
            reconnect_last_seconds: 10,
            connect_timeout_seconds: 10,
            failback_after_seconds: 60,
            channel_patience_seconds: 60,
            work_patience_seconds: 60,
            answer_patience_seconds: 120,
            outage_message_seconds: 30,
            outage_close_seconds: 300,
            reconnect_on_shutdown: true,
            user_agents: vec![UserAgent {
                pattern: "NiceHash/".into(),
                minimum_difficulty: 500_000.0,
            }],
            limits: Limits::default(),
            proxy_protocol: ProxyProtocol::default(),
            tls: TlsConfig::default(),
            stats: stats::sender::Config::default(),
        }
    }
}

impl Config {
    /// Checks every value, without touching the network.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |key: &'static str, problem: String| Err(Error::Config { key, problem });
        if self.upstreams.is_empty() {
            return wrong("upstreams", "there must be at least one pool".into());
        }
        if let Some(upstream) = self
            .upstreams
            .iter()
            .find(|upstream| upstream.host_and_port().is_none())
        {
            let problem = format!("{:?} is not host:port", upstream.address);
            return wrong("upstreams.address", problem);
        }
        if let Err(problem) = Identity::parse(&self.user_identity) {
            return wrong("user_identity", problem.to_string());
        }
        if let Err(error) = Hashrate::new(self.nominal_hashrate) {
            return wrong("nominal_hashrate", error.to_string());
        }
        if self.minimum_difficulty != 0.0
            && let Err(error) = Difficulty::new(self.minimum_difficulty)
        {
            return wrong("minimum_difficulty", error.to_string());
        }
        if self.maximum_difficulty != 0.0
            && let Err(error) = Difficulty::new(self.maximum_difficulty)
        {
            return wrong("maximum_difficulty", error.to_string());
        }
        if self.maximum_difficulty != 0.0 && self.maximum_difficulty < self.minimum_difficulty {
            return wrong("maximum_difficulty", "below minimum_difficulty".into());
        }
        if !(0.1..=1000.0).contains(&self.shares_per_minute) {
            return wrong("shares_per_minute", "must be from 0.1 to 1000".into());
        }
        if !(2..=8).contains(&self.extranonce2_size) {
            return wrong(
                "extranonce2_size",
                format!("{} is not within 2 to 8", self.extranonce2_size),
            );
        }
        if self.version_rolling_mask & !BIP_320_MASK != 0 {
            return wrong(
                "version_rolling_mask",
                format!("only bits of {BIP_320_MASK:#010x} may be rolled (BIP 320)"),
            );
        }
        if self.upstream_connections > MOST_CONNECTIONS {
            let problem = format!("at most {MOST_CONNECTIONS}");
            return wrong("upstream_connections", problem);
        }
        if self.max_in_flight_shares > MOST_IN_FLIGHT {
            return wrong("max_in_flight_shares", format!("at most {MOST_IN_FLIGHT}"));
        }
        for (key, value) in [
            ("linger_seconds", self.linger_seconds),
            ("failback_after_seconds", self.failback_after_seconds),
            ("outage_message_seconds", self.outage_message_seconds),
            ("outage_close_seconds", self.outage_close_seconds),
        ] {
            if value > u64::from(u32::MAX) {
                return wrong(key, format!("{value} is too large"));
            }
        }
        for (key, value) in [
            ("max_in_flight_shares", self.max_in_flight_shares as u64),
            ("upstream_queue", self.upstream_queue as u64),
            ("setup_timeout_seconds", self.setup_timeout_seconds),
            ("idle_timeout_seconds", self.idle_timeout_seconds),
            ("write_timeout_seconds", self.write_timeout_seconds),
            ("reconnect_first_ms", self.reconnect_first_ms),
            ("reconnect_last_seconds", self.reconnect_last_seconds),
            ("connect_timeout_seconds", self.connect_timeout_seconds),
            ("channel_patience_seconds", self.channel_patience_seconds),
            ("work_patience_seconds", self.work_patience_seconds),
            ("answer_patience_seconds", self.answer_patience_seconds),
        ] {
            if value == 0 {
                return wrong(key, "must not be 0".into());
            }
            // So that a moment that lies so far ahead can still be named.
            if value > u64::from(u32::MAX) {
                return wrong(key, format!("{value} is too large"));
            }
        }
        if let Some(problem) = self.user_agents.iter().find_map(UserAgent::problem) {
            return wrong("user_agents", problem);
        }
        self.tls.validate()?;
        self.stats.validate()?;
        self.limits.validate()?;
        Ok(self.proxy_protocol.validate()?)
    }

    pub(crate) fn settings(&self) -> Settings {
        let floor = Difficulty::new(self.minimum_difficulty).ok();
        let ceiling = Difficulty::new(self.maximum_difficulty).ok();
        Settings {
            extranonce2_size: self.extranonce2_size,
            version_mask: self.version_rolling_mask,
            nominal_hashrate: Hashrate::new(self.nominal_hashrate).unwrap_or(Hashrate::ZERO),
            max_target: floor.map_or(Target::MAX, Difficulty::target),
            hardest_target: ceiling.map_or(Target::MIN, Difficulty::target),
            aggregate: self.aggregate.then_some(self.shares_per_minute),
            user_identity: self.identity(),
            user_agents: UserAgents::new(&self.user_agents),
            acknowledge: self.acknowledge,
            max_in_flight: self.max_in_flight_shares,
            max_malformed_lines: self.max_malformed_lines,
            setup_timeout: Duration::from_secs(self.setup_timeout_seconds),
            idle_timeout: Duration::from_secs(self.idle_timeout_seconds),
            outage_message: Some(Duration::from_secs(self.outage_message_seconds))
                .filter(|after| !after.is_zero()),
        }
    }

    /// What was checked before.
    fn identity(&self) -> Identity {
        Identity::parse(&self.user_identity).unwrap_or_default()
    }

    pub(crate) fn plan(&self, complaints: Complaints) -> Plan {
        let identity = self.identity();
        Plan {
            upstreams: self.upstreams.clone(),
            records: self
                .upstreams
                .iter()
                .map(|_| Record::new(self.upstreams.len() > 1))
                .collect(),
            queue: self.upstream_queue,
            waits: self.waits(),
            connect_patience: Duration::from_secs(self.connect_timeout_seconds),
            patience: Patience {
                channel: Duration::from_secs(self.channel_patience_seconds),
                work: Duration::from_secs(self.work_patience_seconds),
                answer: Duration::from_secs(self.answer_patience_seconds),
                batch: self.batch(),
            },
            nominal_hashrate: Hashrate::new(self.nominal_hashrate).unwrap_or(Hashrate::ZERO),
            complaints,
            last_identity: LastIdentity::new(identity.fixed()),
            aggregate: self.aggregate,
            job_ids: Arc::new(AtomicU64::new(1)),
            link_ids: AtomicU64::new(1),
        }
    }

    /// A channel whose miner may send no more is owed an answer, however pools gather them.
    fn batch(&self) -> u32 {
        if self.aggregate {
            return BATCH_OF_ANSWERS;
        }
        let most = self.max_in_flight_shares.saturating_sub(1);
        u32::try_from(most).map_or(BATCH_OF_ANSWERS, |most| most.min(BATCH_OF_ANSWERS))
    }

    pub(crate) fn roster(&self) -> Roster {
        let addresses = self.upstreams.iter().map(|pool| pool.address.clone());
        Roster::new(addresses, self.waits())
    }

    fn waits(&self) -> Waits {
        Waits {
            first: Duration::from_millis(self.reconnect_first_ms),
            last: Duration::from_secs(self.reconnect_last_seconds),
            failback: Duration::from_secs(self.failback_after_seconds),
        }
    }

    pub(crate) fn connections(&self) -> usize {
        match self.upstream_connections {
            0 if self.aggregate => 1,
            0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            connections => connections,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../config/translator.toml");

    #[test]
    fn the_example_file_holds_every_key_with_its_default() {
        let example: toml::Table = toml::from_str(EXAMPLE).unwrap();
        let default = toml::Table::try_from(Config::default()).unwrap();
        assert_eq!(example, default);
        let config: Config = toml::from_str(EXAMPLE).unwrap();
        assert_eq!(config, Config::default());
        config.validate().unwrap();
    }

    #[test]
    fn a_wrong_value_is_named_by_its_key() {
        let default = Config::default;
        let upstream = |address: &str| {
            vec![Upstream {
                address: address.into(),
                authority_public_key: None,
            }]
        };
        for (config, key) in [
            (
                Config {
                    upstreams: Vec::new(),
                    ..default()
                },
                "upstreams",
            ),
            (
                Config {
                    upstreams: upstream("pool.example"),
                    ..default()
                },
                "upstreams.address",
            ),
            (
                Config {
                    upstreams: upstream(":34254"),
                    ..default()
                },
                "upstreams.address",
            ),
            (
                Config {
                    nominal_hashrate: f64::NAN,
                    ..default()
                },
                "nominal_hashrate",
            ),
            (
                Config {
                    minimum_difficulty: -1.0,
                    ..default()
                },
                "minimum_difficulty",
            ),
            (
                Config {
                    extranonce2_size: 9,
                    ..default()
                },
                "extranonce2_size",
            ),
            (
                Config {
                    upstream_connections: MOST_CONNECTIONS + 1,
                    ..default()
                },
                "upstream_connections",
            ),
            (
                Config {
                    max_in_flight_shares: 0,
                    ..default()
                },
                "max_in_flight_shares",
            ),
            (
                Config {
                    max_in_flight_shares: MOST_IN_FLIGHT + 1,
                    ..default()
                },
                "max_in_flight_shares",
            ),
            (
                Config {
                    version_rolling_mask: 0x3fff_e000,
                    ..default()
                },
                "version_rolling_mask",
            ),
            (
                Config {
                    linger_seconds: u64::MAX,
                    ..default()
                },
                "linger_seconds",
            ),
            (
                Config {
                    idle_timeout_seconds: u64::MAX,
                    ..default()
                },
                "idle_timeout_seconds",
            ),
            (
                Config {
                    user_identity: "x".repeat(256),
                    ..default()
                },
                "user_identity",
            ),
            (
                Config {
                    user_identity: "farm1.{rig}".into(),
                    ..default()
                },
                "user_identity",
            ),
            (
                Config {
                    user_agents: vec![UserAgent {
                        pattern: "x".into(),
                        minimum_difficulty: -1.0,
                    }],
                    ..default()
                },
                "user_agents",
            ),
        ] {
            let error = config.validate().unwrap_err();
            assert!(
                matches!(error, Error::Config { key: seen, .. } if seen == key),
                "{key}: {error}"
            );
        }
    }
}
