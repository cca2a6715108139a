//! Moderation of busy miners, as network cards have it for their interrupts: who sends very many shares is read at
//! intervals and not whenever something comes, so that one read, one turn and one write serve several shares.
//!
//! An honest miner, even with some hundred shares a second, is none of these. In between the kernel tells nobody of what a
//! moderated miner sends before there is much of it, because to be woken costs as much as to read.

use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SetUsize;
use tokio::net::TcpStream;

/// Between two reads of a busy miner; timers make it one millisecond more at most.
const INTERVAL: Duration = Duration::from_millis(2);

/// With so many reads within [`WINDOW`], 500 a second, a miner is busy.
const BUSY: u32 = 32;
const WINDOW: Duration = Duration::from_millis(64);

/// With so many reads in a row that brought one line at most there is nothing to save. Such a miner may be one that waits
/// for each answer, and should not be slowed down.
const IDLE: u32 = 4;

/// Bytes at which the kernel tells of them before the interval is over: some twenty shares.
const MUCH: usize = 2048;

/// When a miner is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moderation {
    /// Whenever something comes.
    Off {
        /// Reads since a moment.
        reads: u32,
        since: Instant,
    },
    /// At intervals.
    On {
        next_read: Instant,
        /// Reads in a row that brought one line at most.
        idle: u32,
    },
}

impl Moderation {
    pub(super) fn new(now: Instant) -> Self {
        Self::Off {
            reads: 0,
            since: now,
        }
    }

    /// When the miner is to be read although nobody was told of anything.
    pub(super) fn next_read(self) -> Option<Instant> {
        match self {
            Self::Off { .. } => None,
            Self::On { next_read, .. } => Some(next_read),
        }
    }

    /// The miner was read, and said so many lines.
    pub(super) fn after_read(self, now: Instant, lines: u32) -> Self {
        match self {
            Self::Off { since, .. } if now.duration_since(since) > WINDOW => Self::Off {
                reads: 1,
                since: now,
            },
            Self::Off { reads, since } if reads + 1 < BUSY => Self::Off {
                reads: reads + 1,
                since,
            },
            Self::On { idle, .. } if lines <= 1 && idle + 1 == IDLE => Self::new(now),
            Self::Off { .. } => Self::On {
                next_read: now + INTERVAL,
                idle: 0,
            },
            Self::On { idle, .. } => Self::On {
                next_read: now + INTERVAL,
                idle: if lines <= 1 { idle + 1 } else { 0 },
            },
        }
    }

    /// Tells the kernel, if this is another state than the one `before`. A system that knows no such option tells of
    /// everything, and the miner is read as soon as that.
    pub(super) fn apply(self, before: Self, stream: &TcpStream) {
        let is_on = self.next_read().is_some();
        if is_on != before.next_read().is_some() {
            let _ = setsockopt(stream, ReceiveLowWater, if is_on { &MUCH } else { &1 });
        }
    }
}

/// `SO_RCVLOWAT`: with fewer bytes a socket is not readable. Its end is told of at once all the same.
#[derive(Debug, Clone, Copy)]
struct ReceiveLowWater;
nix::setsockopt_impl!(
    ReceiveLowWater,
    libc::SOL_SOCKET,
    libc::SO_RCVLOWAT,
    usize,
    SetUsize
);

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// So many reads, one line each, evenly spread over a second; gives the number of those after which it was moderated.
    fn moderated(reads: u32) -> u32 {
        let mut now = Instant::now();
        let mut moderation = Moderation::new(now);
        let mut moderated = 0;
        for _ in 0..reads {
            now += Duration::from_secs(1) / reads;
            moderation = moderation.after_read(now, 1);
            moderated += u32::from(moderation.next_read().is_some());
        }
        moderated
    }

    #[test]
    fn a_miner_with_some_hundred_shares_a_second_is_never_moderated() {
        assert_eq!([1, 50, 400].map(moderated), [0; 3]);
        assert!(moderated(2000) > 0);
    }

    #[test]
    fn a_busy_miner_is_read_at_intervals_as_long_as_that_saves_something() {
        let mut now = Instant::now();
        let mut moderation = Moderation::new(now);
        for _ in 0..BUSY {
            assert_eq!(moderation.next_read(), None);
            now += MILLISECOND;
            moderation = moderation.after_read(now, 1);
        }
        for _ in 0..1000 {
            let next = moderation.next_read().unwrap();
            assert_eq!(next, now + INTERVAL);
            now = next;
            moderation = moderation.after_read(now, 3);
        }
        for _ in 1..IDLE {
            moderation = moderation.after_read(now, 1);
        }
        // One line more, and it counts anew.
        moderation = moderation.after_read(now, 2);
        for _ in 0..IDLE {
            assert!(moderation.next_read().is_some());
            moderation = moderation.after_read(now, 0);
        }
        assert_eq!(moderation.next_read(), None);
    }

    #[test]
    fn a_miner_that_waits_for_each_answer_keeps_most_of_its_speed() {
        let (start, answer) = (Instant::now(), MILLISECOND / 10);
        let mut now = start;
        let mut moderation = Moderation::new(now);
        let mut shares = 0;
        while now < start + Duration::from_secs(1) {
            now = moderation.next_read().unwrap_or(now + answer);
            moderation = moderation.after_read(now, 1);
            shares += 1;
        }
        assert!(shares > 2500, "{shares} in a second");
    }
}
