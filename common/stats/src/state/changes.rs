//! What an event has changed: documents to be stored, and work that was not known before.

use serde::{Deserialize, Serialize};

use super::Now;
use super::document::Key;
use super::names::PeerName;
use super::workers::WorkerKey;

/// What an event has changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) keys: Vec<Key>,
    pub(super) work: Vec<Done>,
    pub(super) ended: Vec<ChannelId>,
}

impl Changes {
    pub(super) fn work(&mut self, subject: impl FnOnce() -> Subject, from_ms: u64, hashes: u128) {
        self.work_on(None, subject, from_ms, hashes);
    }

    /// The same, where the channel has a hashrate of its own.
    pub(super) fn work_on(
        &mut self,
        channel: Option<ChannelId>,
        subject: impl FnOnce() -> Subject,
        from_ms: u64,
        hashes: u128,
    ) {
        if hashes > 0 {
            self.work.push(Done {
                subject: subject(),
                channel,
                from_ms,
                hashes,
            });
        }
    }
}

/// An SV2 channel of a peer that is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId {
    /// The peer's number.
    pub peer: u64,
    /// The channel's, on that connection.
    pub channel: u32,
}

/// Whose hashrate is measured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// A sender, by its own sums.
    Sender,
    /// All sessions of a peer's name.
    Peer(PeerName),
    /// All sessions of a worker.
    Worker(WorkerKey),
}

/// Work that was not known before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Whose.
    pub subject: Subject,
    /// On which channel, if it was on one.
    pub channel: Option<ChannelId>,
    /// It was done since then, by the service's clock.
    pub from_ms: u64,
    /// How much.
    pub hashes: u128,
}

/// Since when a session's new work was done, by the service's clock: since it told last or, the first time, since it began.
/// Its beginning is known by the sender's clock, of which only the time since then is taken.
pub(super) fn told(last_ms: &mut Option<u64>, now: Now, at_ms: u64, since_ms: u64) -> u64 {
    last_ms.replace(now.unix_ms).unwrap_or_else(|| {
        // A peer that nobody has announced began nobody knows when.
        let since_ms = if since_ms == 0 { at_ms } else { since_ms };
        now.unix_ms.saturating_sub(at_ms.saturating_sub(since_ms))
    })
}
