//! Senders that have gone for good. A sender's name is its host's by default, which in containers is another one at each start.

use std::time::Duration;

use super::{Key, Link, MAX_SENDERS, Now, Sender, SenderKey, State, WorkerKey};

impl State {
    /// Forgets senders that have not been heard for so long, and are neither connected nor expected.
    pub fn forget(&mut self, now: Now, after: Duration) {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let is_old = |sender: &Sender| {
            let silent_ms = now.unix_ms.saturating_sub(sender.instance.last_seen_ms);
            can_go(sender, now) && silent_ms > after_ms
        };
        let senders = self.senders.iter().filter(|(_, sender)| is_old(sender));
        let gone: Vec<_> = senders.map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.remove(key);
        }
    }

    /// Senders that were forgotten since this was asked last.
    pub fn take_forgotten(&mut self) -> Vec<SenderKey> {
        std::mem::take(&mut self.forgotten)
    }

    /// Whether there is room for another sender: where there was none, that of the one that has been down longest.
    pub(super) fn make_room(&mut self, now: Now) -> bool {
        if self.senders.len() < MAX_SENDERS {
            return true;
        }
        let senders = self.senders.iter();
        let longest = senders
            .filter(|(_, sender)| can_go(sender, now))
            .min_by_key(|(_, sender)| sender.instance.last_seen_ms);
        let longest = longest.map(|(key, _)| key.clone());
        longest.map(|key| self.remove(key)).is_some()
    }

    fn remove(&mut self, key: SenderKey) {
        if let Some(sender) = self.senders.remove(&key) {
            let documents = documents(&sender);
            self.leftover
                .extend(documents.map(|document| (key.clone(), document)));
            self.forgotten.push(key);
        }
    }
}

fn can_go(sender: &Sender, now: Now) -> bool {
    !sender.expected && sender.link(now) == Link::Down
}

/// What may be stored of a sender. Itself comes last: whatever is left of it when the service is restarted is forgotten then.
fn documents(sender: &Sender) -> impl Iterator<Item = Key> {
    let peers = sender.peers.keys().copied().map(Key::Peer);
    let peer_totals = sender.peer_totals.keys().cloned().map(Key::PeerTotals);
    let workers = sender.workers().iter().flat_map(|(worker, known)| {
        let sessions = known
            .sessions
            .keys()
            .map(|(peer, channel)| Key::WorkerSession {
                peer: *peer,
                channel: *channel,
                worker: WorkerKey::clone(worker),
            });
        sessions.chain([Key::WorkerTotals(WorkerKey::clone(worker))])
    });
    let upstreams = sender.upstreams.keys().cloned().map(Key::Upstream);
    let blocks = sender.blocks.keys().cloned().map(Key::Block);
    let all = peers.chain(peer_totals).chain(workers);
    all.chain(upstreams).chain(blocks).chain([Key::Sender])
}
