//! What an operator can say about the pool.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ledger::StorageConfig;
use serde::{Deserialize, Serialize};
use service::{
    http::Address,
    listener::{Limits, ProxyProtocol},
};
use sv2_connection::{Authority, AuthorityKey, AuthoritySecretKey, Options};
use templates::{FailoverConfig, Sources};
use work::Difficulty;

use crate::{
    AccountsConfig, Error,
    limits::{Allowance, EXPECTED_SHARES, Places},
    payout,
    session::Settings,
};

/// The longest tag that leaves room for everything else in the 100 bytes of a coinbase script.
const LONGEST_TAG: usize = 32;

/// The configuration of the pool; `config/pool.toml` documents each key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where SV2 miners and translators connect.
    pub listen_address: SocketAddr,
    /// Where `/healthz`, `/readyz`, `/status` and `/metrics` are served, or `off`.
    pub http_address: Address,
    /// File with the authority's secret key, made by `hashpool keygen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority_secret_key_file: Option<PathBuf>,
    /// The authority's secret key itself, for the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority_secret_key: Option<AuthoritySecretKey>,
    /// Where the ledger is, unless `storage.url` says otherwise.
    pub data_dir: PathBuf,
    /// Tells apart pools that share a ledger; part of every extranonce.
    pub server_id: u16,
    /// An address, or an output descriptor without wildcards, that the coinbase pays.
    pub payout: String,
    /// Text in the coinbase of each block.
    pub pool_tag: String,
    /// The share rate that difficulty aims at, per channel.
    pub shares_per_minute: f64,
    /// The easiest difficulty that is handed out.
    pub minimum_difficulty: f64,
    /// Time from accepting a connection to its completed set-up, the Noise handshake included.
    pub setup_timeout_seconds: u32,
    /// Time for a peer to take what is written to it.
    pub write_timeout_seconds: u32,
    /// Time for clients to leave by themselves when the pool stops.
    pub drain_seconds: u32,
    /// Time for a client to have a channel, from its set-up or from its last one on; 0 is no limit.
    pub first_channel_timeout_seconds: u32,
    /// Time without a message from a client that has a channel and work for it; 0 is no limit.
    pub idle_timeout_seconds: u32,
    /// Time without fresh templates, after which clients are asked to go elsewhere; 0 is never.
    pub stale_work_seconds: u32,
    /// Messages of one client per second, with bursts of one second's worth; beyond, it is not read. 0 is no limit.
    pub messages_per_second: u32,
    /// Noise handshakes that are computed at a time; 0 is half as many as there are processor cores.
    pub handshakes_at_a_time: usize,
    /// Channels on one connection.
    pub channels_per_connection: u32,
    /// Groups of channels on one connection: those with the same payee and size of the extranonce.
    pub groups_per_connection: u32,
    /// Channels on all connections together.
    pub channels: u32,
    /// Who may mine here, and whom their blocks pay.
    pub accounts: AccountsConfig,
    /// Blocks on top of one of ours, itself counted, after which it is no longer watched.
    pub block_confirmations: u32,
    /// The ledger.
    pub storage: StorageConfig,
    /// Connections.
    pub limits: Limits,
    /// Whether clients come through a load balancer that says who calls.
    pub proxy_protocol: ProxyProtocol,
    /// Where templates come from.
    pub template: Sources,
    /// When another of several sources takes over.
    pub failover: FailoverConfig,
    /// Which stats service is told what happens.
    pub stats: stats::sender::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen_address: SocketAddr::from(([0, 0, 0, 0], 34254)),
            http_address: Address::loopback(9108),
            authority_secret_key_file: None,
            authority_secret_key: None,
            data_dir: PathBuf::from("data/pool"),
            server_id: 0,
            payout: String::new(),
            pool_tag: "hashpool".to_owned(),
            shares_per_minute: 6.0,
            minimum_difficulty: 0.001,
            setup_timeout_seconds: 10,
            write_timeout_seconds: 15,
            drain_seconds: 5,
            first_channel_timeout_seconds: 0,
            idle_timeout_seconds: 1800,
            stale_work_seconds: 600,
            messages_per_second: 20_000,
            handshakes_at_a_time: 0,
            channels_per_connection: 10_000,
            groups_per_connection: 1_000,
            channels: 200_000,
            accounts: AccountsConfig::default(),
            block_confirmations: 100,
            storage: StorageConfig::default(),
            limits: Limits::default(),
            proxy_protocol: ProxyProtocol::default(),
            template: Sources::default(),
            failover: FailoverConfig::default(),
            stats: stats::sender::Config::default(),
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
        payout::parse(&self.payout)?;
        if self.pool_tag.len() > LONGEST_TAG || !self.pool_tag.is_ascii() {
            return wrong("pool_tag", "at most 32 ASCII characters fit the coinbase");
        }
        if !(self.shares_per_minute >= 0.1 && self.shares_per_minute <= 6000.0) {
            return wrong("shares_per_minute", "a rate from 0.1 to 6000 is possible");
        }
        if Difficulty::new(self.minimum_difficulty).is_err() {
            return wrong("minimum_difficulty", "must be a number above zero");
        }
        if self.setup_timeout_seconds == 0 {
            return wrong("setup_timeout_seconds", "must be at least 1");
        }
        if self.write_timeout_seconds == 0 {
            return wrong("write_timeout_seconds", "must be at least 1");
        }
        if self.channels_per_connection == 0 {
            return wrong("channels_per_connection", "must be at least 1");
        }
        if self.groups_per_connection == 0 {
            return wrong("groups_per_connection", "must be at least 1");
        }
        if self.channels == 0 {
            return wrong("channels", "must be at least 1");
        }
        self.authority_key().validate()?;
        self.accounts.validate()?;
        if self.block_confirmations == 0 {
            return wrong("block_confirmations", "must be at least 1");
        }
        self.storage().validate()?;
        self.limits.validate()?;
        self.proxy_protocol.validate()?;
        self.template.validate()?;
        self.failover.validate()?;
        self.stats.validate()?;
        Ok(())
    }

    /// The ledger's settings, with the place that it has where none is configured.
    #[must_use]
    pub fn storage(&self) -> StorageConfig {
        let mut storage = self.storage.clone();
        if storage.url.is_empty() {
            let path = self.data_dir.join("ledger.sqlite");
            storage.url = format!("sqlite:{}", path.display());
        }
        storage
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
            shares_per_minute: self.shares_per_minute,
            pool_minimum: Difficulty::new(self.minimum_difficulty)
                .unwrap_or(Difficulty::ONE)
                .target(),
            channels_per_connection: usize::try_from(self.channels_per_connection)
                .unwrap_or(usize::MAX),
            groups_per_connection: usize::try_from(self.groups_per_connection)
                .unwrap_or(usize::MAX),
            setup_timeout: Duration::from_secs(self.setup_timeout_seconds.into()),
            drain: Duration::from_secs(self.drain_seconds.into()),
            told: self.stats.is_on(),
            allowance: Allowance {
                no_channel: limit(self.first_channel_timeout_seconds),
                // Where few shares are asked for, long silences are what the pool wants.
                idle: limit(self.idle_timeout_seconds).map(|idle| {
                    let shares = 60.0 * EXPECTED_SHARES / self.shares_per_minute;
                    idle.max(Duration::try_from_secs_f64(shares).unwrap_or(idle))
                }),
            },
        }
    }

    /// Channels on all connections together.
    pub(crate) fn places(&self) -> Arc<Places> {
        Places::new(usize::try_from(self.channels).unwrap_or(usize::MAX))
    }

    pub(crate) fn stale_work(&self) -> Option<Duration> {
        limit(self.stale_work_seconds)
    }

    /// Half of the cores are left for shares, whatever comes to the door.
    pub(crate) fn handshakes_at_a_time(&self) -> usize {
        if self.handshakes_at_a_time > 0 {
            return self.handshakes_at_a_time;
        }
        std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
    }

    pub(crate) fn connection_options(&self) -> Options {
        Options {
            handshake_timeout: Duration::from_secs(self.setup_timeout_seconds.into()),
            write_timeout: Duration::from_secs(self.write_timeout_seconds.into()),
            // The largest message that a miner may send is a share or a request to open a channel.
            largest_frame: 4096,
            ..Options::default()
        }
    }
}

/// Of a key for which 0 is no limit.
fn limit(seconds: u32) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}
