//! When the journal is folded, and from where on.

use std::time::Duration;

use tokio::time::Instant;

use crate::{journal::Place, store::Folded};

/// How often the journal is folded, and how soon again where that was not possible.
const INTERVAL: Duration = if cfg!(test) {
    Duration::from_millis(200)
} else {
    Duration::from_secs(10)
};

/// It is folded sooner where it has as many bytes to fold.
const BYTES: usize = 4 << 20;

/// What the writer knows of its server's journal.
#[derive(Debug)]
pub(crate) struct Folding {
    /// What comes up to here is folded, or cannot be read.
    after: Place,
    /// `None` if nothing is behind that.
    due: Option<Instant>,
    /// The last fold failed: however much there is, it is not tried before.
    put_off_until: Instant,
    /// What was committed since the last fold.
    bytes: usize,
}

impl Folding {
    /// At the start nobody knows what earlier starts have left.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            after: (0, 0),
            due: Some(now),
            put_off_until: now,
            bytes: 0,
        }
    }

    /// Behind which batch to begin.
    pub(crate) fn after(&self) -> Place {
        self.after
    }

    /// When to fold, if there is anything.
    pub(crate) fn at(&self) -> Option<Instant> {
        self.due.map(|due| due.max(self.put_off_until))
    }

    /// There is a batch of so many bytes more in the journal.
    pub(crate) fn committed(&mut self, bytes: usize, now: Instant) {
        self.bytes += bytes;
        let due = self.due.get_or_insert(now + INTERVAL);
        if self.bytes >= BYTES {
            *due = now;
        }
    }

    /// What came of folding, `None` being a failure; whether it is worth while to go on at once.
    pub(crate) fn folded(&mut self, folded: Option<Folded>, now: Instant) -> bool {
        match folded {
            Some(Folded::UpTo { place, more: true }) => self.after = place,
            Some(Folded::Unreadable(unreadable)) => self.after = unreadable.place(),
            Some(Folded::UpTo { place, more: false }) => {
                self.after = place;
                return self.is_done();
            }
            Some(Folded::Nothing | Folded::TakenOver) => return self.is_done(),
            None => {
                self.put_off_until = now + INTERVAL;
                return false;
            }
        }
        // After the next commit, because somebody may be waiting for it.
        self.due = Some(now);
        true
    }

    fn is_done(&mut self) -> bool {
        self.due = None;
        self.bytes = 0;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_folded_after_a_while_or_when_there_is_much_in_it() {
        let start = Instant::now();
        let mut folding = Folding::new(start);
        assert_eq!(folding.at(), Some(start));
        assert!(!folding.folded(Some(Folded::Nothing), start));
        assert_eq!(folding.at(), None);
        folding.committed(100, start);
        folding.committed(100, start + INTERVAL / 2);
        assert_eq!(folding.at(), Some(start + INTERVAL));
        let much = start + INTERVAL / 2;
        folding.committed(BYTES, much);
        assert_eq!(folding.at(), Some(much));
        let more = Folded::UpTo {
            place: (1, 2),
            more: true,
        };
        assert!(folding.folded(Some(more), much));
        assert_eq!((folding.at(), folding.after()), (Some(much), (1, 2)));
        let all = Folded::UpTo {
            place: (1, 3),
            more: false,
        };
        assert!(!folding.folded(Some(all), much));
        assert_eq!((folding.at(), folding.after()), (None, (1, 3)));
        folding.committed(100, much);
        assert_eq!(folding.at(), Some(much + INTERVAL));
    }

    #[test]
    fn a_fold_that_failed_is_put_off_however_much_there_is() {
        let start = Instant::now();
        let mut folding = Folding::new(start);
        assert!(!folding.folded(None, start));
        for _ in 0..3 {
            folding.committed(BYTES, start);
            assert_eq!(folding.at(), Some(start + INTERVAL));
        }
    }
}
