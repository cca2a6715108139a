//! What is stored of a sender, piece by piece.

use serde::{Deserialize, Serialize};
use stats_events::{Block, Counters, UpstreamState};

use super::names::PeerName;
use super::sender::{Instance, PeerSession};
use super::totals::Totals;
use super::workers::WorkerKey;

/// Which piece of a sender.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Key {
    /// The sender itself.
    Sender,
    /// A peer's session, of the present instance.
    Peer(u64),
    /// Sessions of a peer that have ended.
    PeerTotals(PeerName),
    /// A worker's session that has not ended.
    WorkerSession {
        /// The peer.
        peer: u64,
        /// The channel.
        channel: u32,
        /// The worker.
        worker: WorkerKey,
    },
    /// Sessions of a worker that have ended.
    WorkerTotals(WorkerKey),
    /// An upstream, by its address.
    Upstream(String),
    /// A block, by its hash.
    Block(String),
}

/// A piece of a sender, as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Document {
    /// [`Key::Sender`]
    Sender(Box<Instance>),
    /// [`Key::Peer`]
    Peer(Box<PeerSession>),
    /// [`Key::PeerTotals`], [`Key::WorkerTotals`]
    Totals(Totals),
    /// [`Key::WorkerSession`]
    WorkerSession {
        /// When it began.
        since_ms: u64,
        /// Of its channel.
        difficulty: Option<f64>,
        /// Its latest.
        counters: Counters,
    },
    /// [`Key::Upstream`]
    Upstream(UpstreamState),
    /// [`Key::Block`]
    Block(Block),
}
