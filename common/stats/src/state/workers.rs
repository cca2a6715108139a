//! Workers of a sender: their sessions by peer and channel, and the sums of those that have ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stats_events::{Counters, WorkerState};

use super::Now;
use super::changes::{Changes, ChannelId, Subject, told};
use super::document::Key;
use super::sender::MOST_OF_A_KIND;
use super::totals::{Totals, renew};

/// A worker of an account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerKey {
    /// Who is paid.
    pub account: String,
    /// Who works.
    pub worker: String,
}

/// A worker's session that has not ended.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerSession {
    /// When it began.
    pub since_ms: u64,
    /// Of its channel or connection.
    pub difficulty: Option<f64>,
    /// Its latest.
    pub counters: Counters,
    /// When they were told last, by the service's clock; nothing if they were not.
    pub(super) told_ms: Option<u64>,
}

/// A worker with all its sessions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Worker {
    /// Sessions that have ended.
    pub ended: Totals,
    /// Those that have not, by peer and channel.
    pub sessions: BTreeMap<(u64, u32), WorkerSession>,
}

impl Worker {
    /// All its sessions together.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = self.ended.clone();
        for session in self.sessions.values() {
            totals.add_session(&session.counters);
        }
        totals
    }
}

/// A peer and a channel of it: where a worker has a session.
type Place = (u64, u32);

/// Channels of a peer, and who works on them.
type Channels = BTreeMap<u32, BTreeSet<Arc<WorkerKey>>>;

/// All workers of a sender.
#[derive(Debug, Default)]
pub(super) struct Workers {
    all: HashMap<Arc<WorkerKey>, Worker>,
    /// Who has a session on which channel of which peer: one of thousands that goes must not have all be looked through.
    open_of: HashMap<u64, Channels>,
    /// How many these are.
    open: usize,
    /// Workers that have any.
    active: usize,
}

impl Workers {
    pub(super) fn all(&self) -> &HashMap<Arc<WorkerKey>, Worker> {
        &self.all
    }

    pub(super) fn of(&self, peer: u64) -> Vec<(&Arc<WorkerKey>, &Worker)> {
        let channels = self.open_of.get(&peer).into_iter();
        let keys: BTreeSet<_> = channels.flat_map(BTreeMap::values).flatten().collect();
        let keys = keys.into_iter();
        keys.filter_map(|key| Some((key, self.all.get(key)?)))
            .collect()
    }

    pub(super) fn names_of(&self, peer: u64) -> impl Iterator<Item = &Arc<WorkerKey>> {
        let channels = self.open_of.get(&peer).into_iter();
        channels.flat_map(BTreeMap::values).flatten()
    }

    pub(super) fn channels_of(
        &self,
        peer: u64,
    ) -> impl Iterator<Item = (u32, impl Iterator<Item = (&Arc<WorkerKey>, &WorkerSession)>)> {
        let channels = self.open_of.get(&peer).into_iter().flatten();
        channels.map(move |(channel, keys)| {
            let place = (peer, *channel);
            let session = move |key| Some((key, self.all.get(key)?.sessions.get(&place)?));
            (*channel, keys.iter().filter_map(session))
        })
    }

    pub(super) fn active(&self) -> usize {
        self.active
    }

    /// Takes how a worker does. `false` if there is no room for it.
    pub(super) fn tell(
        &mut self,
        now: Now,
        at_ms: u64,
        state: &WorkerState,
        channel: Option<ChannelId>,
        changes: &mut Changes,
    ) -> bool {
        let key = self.shared(WorkerKey {
            account: state.account.clone(),
            worker: state.worker.clone(),
        });
        let place = (state.peer, state.channel);
        // A channel that was closed and opened again under the same number is another session.
        let known = self
            .all
            .get(&key)
            .and_then(|worker| worker.sessions.get(&place));
        if known.is_some_and(|known| known.since_ms != state.since_ms) {
            self.end(&key, place, changes);
        }
        if !self.begin(&key, place, state.since_ms) {
            return false;
        }
        let worker = self.all.get_mut(&key);
        let Some(session) = worker.and_then(|worker| worker.sessions.get_mut(&place)) else {
            return false;
        };
        let hashes = renew(&mut session.counters, &state.counters);
        let from_ms = told(&mut session.told_ms, now, at_ms, state.since_ms);
        session.difficulty = state.difficulty.or(session.difficulty);
        let subject = || Subject::Worker(WorkerKey::clone(&key));
        changes.work_on(channel, subject, from_ms, hashes);
        if state.ended {
            self.end(&key, place, changes);
        } else {
            changes.keys.push(session_key(&key, place));
        }
        true
    }

    /// The one that is known, where one is.
    fn shared(&self, key: WorkerKey) -> Arc<WorkerKey> {
        match self.all.get_key_value(&key) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(key),
        }
    }

    /// A peer has gone: its sessions have ended.
    pub(super) fn end_of(&mut self, peer: u64, changes: &mut Changes) {
        for (channel, keys) in self.open_of.remove(&peer).into_iter().flatten() {
            changes.ended.push(ChannelId { peer, channel });
            for key in keys {
                self.end(&key, (peer, channel), changes);
            }
        }
    }

    /// All sessions have ended.
    pub(super) fn end_all(&mut self, changes: &mut Changes) {
        let peers: Vec<_> = self.open_of.keys().copied().collect();
        for peer in peers {
            self.end_of(peer, changes);
        }
    }

    pub(super) fn restore(&mut self, key: WorkerKey, place: Place, session: WorkerSession) {
        let key = self.shared(key);
        if self.begin(&key, place, session.since_ms)
            && let Some(worker) = self.all.get_mut(&key)
        {
            worker.sessions.insert(place, session);
        }
    }

    pub(super) fn restore_totals(&mut self, key: WorkerKey, totals: Totals) {
        self.all.entry(Arc::new(key)).or_default().ended = totals;
    }

    /// All sessions are there: what is told next was done since then.
    pub(super) fn restored(&mut self, told_ms: Option<u64>) {
        let sessions = self
            .all
            .values_mut()
            .flat_map(|worker| worker.sessions.values_mut());
        sessions.for_each(|session| session.told_ms = told_ms);
    }

    /// Sees to it that there is a session. `false` if there is no room for it.
    fn begin(&mut self, key: &Arc<WorkerKey>, place: Place, since_ms: u64) -> bool {
        let known = self.all.get(key);
        if known.is_some_and(|worker| worker.sessions.contains_key(&place)) {
            return true;
        }
        let is_full = known.is_none() && self.all.len() >= MOST_OF_A_KIND;
        if is_full || self.open >= MOST_OF_A_KIND {
            return false;
        }
        let (peer, channel) = place;
        let session = WorkerSession {
            since_ms,
            difficulty: None,
            counters: Counters::default(),
            told_ms: None,
        };
        let worker = self.all.entry(Arc::clone(key)).or_default();
        self.active += usize::from(worker.sessions.is_empty());
        worker.sessions.insert(place, session);
        self.open_of
            .entry(peer)
            .or_default()
            .entry(channel)
            .or_default()
            .insert(Arc::clone(key));
        self.open += 1;
        true
    }

    /// Folds a session into the sum of those that have ended.
    fn end(&mut self, key: &Arc<WorkerKey>, place: Place, changes: &mut Changes) {
        let Some(worker) = self.all.get_mut(key) else {
            return;
        };
        let Some(session) = worker.sessions.remove(&place) else {
            return;
        };
        worker.ended.add_session(&session.counters);
        self.active -= usize::from(worker.sessions.is_empty());
        self.open -= 1;
        let (peer, channel) = place;
        if let Some(channels) = self.open_of.get_mut(&peer) {
            if let Some(keys) = channels.get_mut(&channel) {
                keys.remove(key);
                if keys.is_empty() {
                    channels.remove(&channel);
                    changes.ended.push(ChannelId { peer, channel });
                }
            }
            if channels.is_empty() {
                self.open_of.remove(&peer);
            }
        }
        changes.keys.push(session_key(key, place));
        changes.keys.push(Key::WorkerTotals(WorkerKey::clone(key)));
    }
}

fn session_key(worker: &WorkerKey, (peer, channel): Place) -> Key {
    Key::WorkerSession {
        peer,
        channel,
        worker: worker.clone(),
    }
}
