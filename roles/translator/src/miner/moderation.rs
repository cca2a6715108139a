//! Moderation of busy miners, as network cards have it for their interrupts: who sends very many shares is read at
//! intervals and not whenever something comes, so that one read, one turn and one write serve several shares.
//!
//! An honest miner, even with two hundred shares a second, is none of these. In between the kernel tells nobody of what a
//! moderated miner sends before there is much of it, because to be woken costs as much as to read.

use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SetUsize;
use tokio::net::TcpStream;

/// Between two reads of a busy miner; timers make it one millisecond more at most.
const INTERVAL: Duration = Duration::from_millis(2);

/// With so many reads within [`WINDOW`], 500 a second, a miner is busy. Shares come by chance: so many of one that finds 200
/// a second on average fall into a window once in hours.
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
            Self::Off { reads, since } => {
                let (reads, since) = if now.duration_since(since) > WINDOW {
                    (1, now)
                } else {
                    (reads + 1, since)
                };
                if reads < BUSY {
                    Self::Off { reads, since }
                } else {
                    Self::on(now, 0)
                }
            }
            Self::On { idle, .. } => match if lines <= 1 { idle + 1 } else { 0 } {
                IDLE => Self::new(now),
                idle => Self::on(now, idle),
            },
        }
    }

    fn on(now: Instant, idle: u32) -> Self {
        Self::On {
            next_read: now + INTERVAL,
            idle,
        }
    }

    /// Tells the kernel, if this is another state than the one `before`. Linux tells of what has come meanwhile when the
    /// option is lowered (since 4.17). A system that knows no such option tells of
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
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::super::transport::{READ, Transport};
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// So many reads, one line each, over a second, after gaps as `gap` has them of their average; gives the number of those after which it was moderated.
    fn moderated(reads: u32, mut gap: impl FnMut() -> f64) -> u32 {
        let mut now = Instant::now();
        let mut moderation = Moderation::new(now);
        let mut moderated = 0;
        for _ in 0..reads {
            now += (Duration::from_secs(1) / reads).mul_f64(gap());
            moderation = moderation.after_read(now, 1);
            moderated += u32::from(moderation.next_read().is_some());
        }
        moderated
    }

    #[test]
    fn a_miner_with_two_hundred_shares_a_second_is_never_moderated() {
        let mut chance = StdRng::seed_from_u64(1);
        // Hashing has no memory: gaps are distributed exponentially.
        let mut gap = || -(1.0 - chance.random::<f64>()).ln();
        for _ in 0..60 {
            assert_eq!([1, 50, 200].map(|reads| moderated(reads, &mut gap)), [0; 3]);
        }
        assert!(moderated(2000, gap) > 0);
        assert_eq!(moderated(450, || 1.0), 0);
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
    fn a_miner_that_waits_for_each_answer_keeps_a_quarter_of_its_speed_at_least() {
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

    /// Whether the kernel tells of anything.
    async fn is_told(stream: &TcpStream) -> bool {
        timeout(MILLISECOND, stream.readable()).await.is_ok()
    }

    /// Reads all that there is; gives how much that was.
    fn drain(stream: &TcpStream) -> usize {
        let mut buffer = [0; 2 * MUCH];
        let size = stream.try_read(&mut buffer).unwrap();
        assert!(stream.try_read(&mut buffer).is_err());
        size
    }

    #[tokio::test(start_paused = true)]
    async fn the_kernel_tells_of_a_moderated_miner_when_there_is_much_or_when_it_ends_or_is_moderated_no_more()
     {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap());
        let (theirs, ours) = tokio::join!(theirs, listener.accept());
        let (mut theirs, ours) = (theirs.unwrap(), ours.unwrap().0);
        let now = Instant::now();
        let (off, on) = (Moderation::new(now), Moderation::on(now, 0));

        // What is new may be taken to have something.
        assert!(ours.try_read(&mut [0]).is_err());
        on.apply(off, &ours);
        theirs.write_all(&[b'x'; 100]).await.unwrap();
        assert!(!is_told(&ours).await);
        let read = READ.with_borrow_mut(|buffers| {
            let bytes = Transport::Plain.read(&ours, buffers, true).unwrap();
            bytes.map(<[u8]>::len)
        });
        assert_eq!(read, Some(100), "whoever looks finds it");
        theirs.write_all(&[b'x'; 100]).await.unwrap();
        assert!(!is_told(&ours).await);
        off.apply(on, &ours);
        assert!(is_told(&ours).await, "of what has come before");
        assert_eq!(drain(&ours), 100);

        on.apply(off, &ours);
        theirs.write_all(&[b'x'; MUCH]).await.unwrap();
        assert!(is_told(&ours).await);
        assert_eq!(drain(&ours), MUCH);
        theirs.shutdown().await.unwrap();
        assert!(is_told(&ours).await);
    }
}
