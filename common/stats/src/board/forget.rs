//! Series of senders that were forgotten: they go at once here, and a few at a time where they are stored.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Board, Places};
use crate::Now;
use crate::state::SenderKey;

impl Board {
    /// Forgets senders; see [`State::forget`](crate::state::State::forget).
    pub fn forget(&mut self, now: Now, after: Duration) {
        self.state.forget(now, after);
        self.forget_series();
    }

    /// The numbers of some stored series that nobody has any more.
    #[must_use]
    pub fn forgotten_series(&self, most: usize) -> Vec<i64> {
        self.forgotten.iter().take(most).copied().collect()
    }

    /// The first ones of them are stored no longer.
    pub fn deleted(&mut self, series: usize) {
        self.forgotten.drain(..series.min(self.forgotten.len()));
    }

    pub(super) fn forget_series(&mut self) {
        let gone: BTreeSet<SenderKey> = self.state.take_forgotten().into_iter().collect();
        if gone.is_empty() {
            return;
        }
        for sender in &gone {
            self.channels.remove(sender);
            self.places.remove(sender);
        }
        // Where each series is from now on.
        let mut moved = Vec::with_capacity(self.series.len());
        let mut kept = 0;
        let forgotten = &mut self.forgotten;
        self.series.retain(|entry| {
            let stays = !gone.contains(&entry.sender);
            moved.push(stays.then_some(kept));
            if stays {
                kept += 1;
            } else {
                forgotten.push_back(entry.number);
            }
            stays
        });
        let new = |place: &usize| moved.get(*place).copied().flatten();
        self.places
            .values_mut()
            .for_each(|places| places.renumber(new));
        self.unstored = self.unstored.iter().filter_map(new).collect();
        self.turn = 0;
    }
}

impl Places {
    fn renumber(&mut self, new: impl Fn(&usize) -> Option<usize>) {
        let peers = self.peers.values_mut();
        let all = peers.chain(self.workers.values_mut());
        for place in all.chain(&mut self.sender) {
            *place = new(place).unwrap_or(*place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use stats_events::{Counters, Event, Hello, Numbered, VERSION, Work, WorkerState};

    use super::*;
    use crate::board::Of;
    use crate::series::Window;
    use crate::state::WorkerKey;

    fn at(start: Instant, seconds: u64) -> Now {
        Now {
            instant: start + Duration::from_secs(seconds),
            unix_ms: 1_700_000_000_000 + seconds * 1000,
        }
    }

    fn hello(name: &str) -> Hello {
        Hello {
            version: VERSION,
            role: "pool".into(),
            name: name.into(),
            instance_id: "1".into(),
            started_at_ms: 1_700_000_000_000,
            software: String::new(),
            network: None,
            heartbeat_ms: 5000,
            token: None,
        }
    }

    fn worker(worker: &str, hashes: u128) -> Numbered {
        let counters = Counters {
            work: Work(hashes),
            ..Counters::default()
        };
        Numbered {
            sequence: 1,
            at_ms: 1_700_000_600_000,
            event: Event::Worker(WorkerState {
                account: "alice".into(),
                worker: worker.into(),
                since_ms: 1_700_000_000_000,
                counters,
                ..WorkerState::default()
            }),
        }
    }

    #[test]
    fn a_forgotten_senders_series_go_and_those_of_others_stay_theirs() {
        let start = Instant::now();
        let mut board = Board::default();
        let names = ["a", "b", "c"];
        let sessions = names.map(|name| board.hello(at(start, 600), &hello(name)).unwrap());
        for (session, hashes) in sessions.iter().zip([600_000, 1_200_000, 1_800_000]) {
            board.event(at(start, 600), session, &worker("rig", hashes));
        }
        board.disconnected(at(start, 600), &sessions[0]);
        board.heartbeat(at(start, 1000), &sessions[1]);
        board.forget(at(start, 1000), Duration::from_secs(300));
        assert_eq!(board.state().senders().count(), 2);
        let rig = WorkerKey {
            account: "alice".into(),
            worker: "rig".into(),
        };
        let rate = |board: &Board, name: usize| {
            let of = Of::Worker(&rig);
            board.hashrate(at(start, 600), &sessions[name].key, of, Window::TenMinutes)
        };
        assert_eq!(rate(&board, 0), None);
        for (name, expected) in [(1, 2000.0), (2, 3000.0)] {
            let seen = rate(&board, name).unwrap();
            assert!((seen / expected - 1.0).abs() < 0.02, "{name}: {seen}");
        }
        let stored = board.take_changes(at(start, 1000), 10).series;
        let stored: Vec<_> = stored.iter().map(|series| &*series.sender.name).collect();
        assert_eq!(stored, ["b", "c"]);
        assert_eq!(board.forgotten_series(10), [0]);
        board.deleted(1);
        assert!(board.forgotten_series(10).is_empty());
    }
}
