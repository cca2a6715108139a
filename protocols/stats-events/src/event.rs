//! What there is to tell. States are absolute and the newest counts; what happens once is said to be so.

use serde::{Deserialize, Serialize};

use crate::Counters;

/// The longest text in an event, in bytes.
const MAX_TEXT: usize = 512;

/// The most entries of a list or map in an event.
const MAX_ENTRIES: usize = 64;

/// Something that is or has happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Event {
    /// How the sender itself is. A state.
    Service(ServiceState),
    /// A peer has connected. Happens once.
    PeerConnected(Peer),
    /// How a peer's session is. A state.
    Peer(PeerState),
    /// A peer has gone. Happens once; its last counts come with it.
    PeerDisconnected(PeerEnd),
    /// How one worker of a peer, on one channel, does. A state.
    Worker(WorkerState),
    /// Where the sender gets its work. A state.
    Upstream(UpstreamState),
    /// What is mined on now. A state.
    Template(Template),
    /// A block was found, or what became of it has changed. Each happens once.
    Block(Block),
    /// A kind that is newer than this crate; to be skipped.
    #[serde(other)]
    Unknown,
}

/// How a service is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceState {
    /// Whether it can do its job.
    pub ready: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Where it listens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// Sums over all peers of this instance, those that have gone included.
    #[serde(default)]
    pub counters: Counters,
    /// Events of this instance that happen once, and that it had no room to keep until they could be told.
    #[serde(default)]
    pub dropped_events: u64,
}

/// An address at which a service listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `sv1`, `sv1-tls`, `sv2-mining`, `sv2-template`, `http`.
    pub protocol: String,
    /// Address and port, as it is bound.
    pub address: String,
    /// What SV2 clients have to know the server by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority_public_key: Option<String>,
}

/// Who has connected, by its own words in the handshake; nothing of it is guessed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Allocated by the sender, never used twice by an instance.
    pub peer: u64,
    /// When.
    pub connected_at_ms: u64,
    /// Address and port; the caller's own, if a load balancer said it.
    pub address: String,
    /// `sv1`, `sv2-mining`, `sv2-job-declaration`, `sv2-template`, `ehash`.
    pub protocol: String,
    /// The port that it came to.
    #[serde(default)]
    pub port: u16,
    /// SV1: the user agent of `mining.subscribe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// SV2 `SetupConnection`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// SV2 `SetupConnection`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// SV2 `SetupConnection`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// SV2 `SetupConnection`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// SV2 `SetupConnection`.
    #[serde(default)]
    pub flags: u32,
    /// SV2 extensions that were agreed on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<u16>,
}

/// How a peer's session is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerState {
    /// Which.
    pub peer: u64,
    /// SV2: open channels.
    #[serde(default)]
    pub channels: u32,
    /// SV1: what it was told last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difficulty: Option<f64>,
    /// Its shares since it connected.
    #[serde(default)]
    pub counters: Counters,
}

/// A peer has gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerEnd {
    /// Which.
    pub peer: u64,
    /// When.
    pub disconnected_at_ms: u64,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Its shares, for the last time.
    #[serde(default)]
    pub counters: Counters,
}

/// How one worker does on one channel of a peer, or on an SV1 connection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerState {
    /// Whose.
    pub peer: u64,
    /// The SV2 channel; 0 on an SV1 connection.
    #[serde(default)]
    pub channel: u32,
    /// Who is paid.
    pub account: String,
    /// Who works; empty where the account has no parts.
    #[serde(default)]
    pub worker: String,
    /// When its first channel or authorisation was.
    pub since_ms: u64,
    /// It does not work any more, and these counts are its last.
    #[serde(default)]
    pub ended: bool,
    /// Of its channel or connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difficulty: Option<f64>,
    /// Its shares since then.
    #[serde(default)]
    pub counters: Counters,
}

/// Where a translator or relay gets its work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamState {
    /// As configured.
    pub address: String,
    /// Its place in the order in which they are tried, from 0.
    #[serde(default)]
    pub order: u32,
    /// `never-tried`, `healthy`, `failing`.
    pub health: String,
    /// Connections that are up.
    #[serde(default)]
    pub connections: u32,
    /// What went wrong last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Since when it has been like this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
}

/// What is mined on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Of the block to be found.
    pub height: u64,
    /// The block that it builds on, as it is usually written.
    pub previous_block: String,
    /// When it came.
    pub received_at_ms: u64,
    /// When the first one on this block came.
    #[serde(default)]
    pub tip_at_ms: u64,
    /// Transactions in it, without the coinbase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transactions: Option<u32>,
    /// What its coinbase may pay, in satoshi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<u64>,
    /// The network's difficulty, as its compact target.
    #[serde(default)]
    pub nbits: u32,
    /// Which of the configured sources it is from.
    #[serde(default)]
    pub source: String,
}

/// A block that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Its hash, as it is usually written.
    pub hash: String,
    /// Its height.
    pub height: u64,
    /// When.
    pub found_at_ms: u64,
    /// By whose miner.
    #[serde(default)]
    pub account: String,
    /// By which.
    #[serde(default)]
    pub worker: String,
    /// What its coinbase pays, in satoshi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<u64>,
    /// What has become of it.
    pub state: BlockState,
    /// Blocks on top of it and itself.
    #[serde(default)]
    pub confirmations: u32,
}

/// What became of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockState {
    /// On its way to the node.
    #[default]
    Found,
    /// In the chain, not deep enough to be sure.
    Accepted,
    /// Deep enough.
    Confirmed,
    /// Another block has its place.
    Orphaned,
    /// No node took it.
    Refused,
    /// Something else, or not to be known.
    #[serde(other)]
    Unknown,
}

impl BlockState {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Found,
        Self::Accepted,
        Self::Confirmed,
        Self::Orphaned,
        Self::Refused,
        Self::Unknown,
    ];

    /// As it is said.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Accepted => "accepted",
            Self::Confirmed => "confirmed",
            Self::Orphaned => "orphaned",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// An event that no honest sender makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A text is too long.
    #[error("{0} is longer than {MAX_TEXT} bytes")]
    TooLong(&'static str),
    /// A list or map has too many entries.
    #[error("{0} has more than {MAX_ENTRIES} entries")]
    TooMany(&'static str),
    /// A number is none.
    #[error("{0} is not a finite number above zero")]
    NotANumber(&'static str),
}

impl Event {
    /// Whether it has to arrive even if something newer is there. Of states only the newest has to.
    #[must_use]
    pub fn happens_once(&self) -> bool {
        matches!(
            self,
            Self::PeerConnected(_) | Self::PeerDisconnected(_) | Self::Block(_)
        )
    }

    /// Whether it stays within what a service stores.
    ///
    /// # Errors
    /// [`Invalid`]
    pub fn check(&self) -> Result<(), Invalid> {
        match self {
            Self::Service(service) => {
                few("problems", service.problems.len())?;
                few("endpoints", service.endpoints.len())?;
                texts("problems", service.problems.iter())?;
                for endpoint in &service.endpoints {
                    texts("endpoints", [&endpoint.protocol, &endpoint.address])?;
                    texts("endpoints", &endpoint.authority_public_key)?;
                }
                counters(&service.counters)
            }
            Self::PeerConnected(peer) => {
                few("extensions", peer.extensions.len())?;
                texts("a peer", [&peer.address, &peer.protocol])?;
                let said = [
                    &peer.user_agent,
                    &peer.vendor,
                    &peer.hardware,
                    &peer.firmware,
                    &peer.device_id,
                ];
                texts("a peer", said.into_iter().flatten())
            }
            Self::Peer(peer) => {
                difficulty(peer.difficulty)?;
                counters(&peer.counters)
            }
            Self::PeerDisconnected(end) => {
                texts("reason", [&end.reason])?;
                counters(&end.counters)
            }
            Self::Worker(worker) => {
                texts("a worker", [&worker.account, &worker.worker])?;
                difficulty(worker.difficulty)?;
                counters(&worker.counters)
            }
            Self::Upstream(upstream) => {
                texts("an upstream", [&upstream.address, &upstream.health])?;
                texts("last_error", &upstream.last_error)
            }
            Self::Template(template) => {
                texts("a template", [&template.previous_block, &template.source])
            }
            Self::Block(block) => texts("a block", [&block.hash, &block.account, &block.worker]),
            Self::Unknown => Ok(()),
        }
    }
}

fn texts<'a>(what: &'static str, all: impl IntoIterator<Item = &'a String>) -> Result<(), Invalid> {
    let short = all.into_iter().all(|text| text.len() <= MAX_TEXT);
    short.then_some(()).ok_or(Invalid::TooLong(what))
}

fn few(what: &'static str, entries: usize) -> Result<(), Invalid> {
    (entries <= MAX_ENTRIES)
        .then_some(())
        .ok_or(Invalid::TooMany(what))
}

fn difficulty(difficulty: Option<f64>) -> Result<(), Invalid> {
    let possible = difficulty.is_none_or(|value| value.is_finite() && value > 0.0);
    possible
        .then_some(())
        .ok_or(Invalid::NotANumber("difficulty"))
}

fn counters(counters: &Counters) -> Result<(), Invalid> {
    for (what, counts) in [("rejected", &counters.rejected), ("lost", &counters.lost)] {
        few(what, counts.len())?;
        texts(what, counts.keys())?;
    }
    Ok(())
}
