//! The threads that hash. They are not tasks: hashing never yields.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use tokio::sync::mpsc;
use work::Hashrate;

use crate::{
    feed::{Current, Feed},
    job::{Claim, NONCES_PER_CLAIM, Share},
    pacing::{Pace, Pacer},
    search::Search,
};

/// Shares that may wait for the connection's task; a thread that finds more waits itself.
const SHARES_WAITING: usize = 64;

/// The threads; they end when this is dropped.
pub(crate) struct Threads {
    feed: Arc<Feed>,
}

impl Threads {
    /// Starts one thread for each of `hashes`, which count what they did; together they keep to `limit`.
    pub(crate) fn start(
        hashes: &[Arc<AtomicU64>],
        limit: Hashrate,
        feed: Arc<Feed>,
    ) -> io::Result<(Self, mpsc::Receiver<Share>)> {
        let (sender, shares) = mpsc::channel(SHARES_WAITING);
        // No machine has so many threads that the count is not exact, and a part of a limit is a limit.
        #[allow(clippy::cast_precision_loss)]
        let limit = Hashrate::new(limit.value() / hashes.len() as f64).unwrap_or(Hashrate::ZERO);
        let threads = Self { feed };
        for (number, hashes) in hashes.iter().enumerate() {
            let worker = Worker {
                feed: threads.feed.clone(),
                shares: sender.clone(),
                hashes: hashes.clone(),
                pacer: Pacer::new(limit),
                started: Instant::now(),
            };
            thread::Builder::new()
                .name(format!("hash-{number}"))
                .spawn(move || worker.run())?;
        }
        Ok((threads, shares))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.feed.close();
    }
}

/// One thread.
struct Worker {
    feed: Arc<Feed>,
    shares: mpsc::Sender<Share>,
    hashes: Arc<AtomicU64>,
    pacer: Pacer,
    started: Instant,
}

/// Nobody takes shares any more.
struct Closed;

impl Worker {
    fn run(mut self) {
        let mut current: Option<Current> = None;
        // Work that is used up is waited out like work that is done with.
        while let Some(next) = self.feed.next(current.as_ref()) {
            while self.feed.is(&next)
                && let Some(claim) = next.work.claim()
            {
                if let Err(Closed) = self.search(&next, &claim) {
                    return;
                }
            }
            current = Some(next);
        }
    }

    /// Searches a claim batch by batch, until it is done or there is other work.
    fn search(&mut self, current: &Current, claim: &Claim) -> Result<(), Closed> {
        let search = Search::new(&claim.header, current.work.target);
        let mut done = 0;
        while done < NONCES_PER_CLAIM && self.feed.is(current) {
            let now = self.started.elapsed();
            match self.pacer.next(now) {
                Pace::Wait(time) => self.feed.wait_while(current, time),
                Pace::Hash(count) => {
                    let end = NONCES_PER_CLAIM.min(done + count);
                    let reached = self.batch(current, claim, &search, done, end)?;
                    self.pacer.done(now, reached - done);
                    done = reached;
                }
            }
        }
        Ok(())
    }

    /// Searches the claim's nonces from `from` to `end`, which is not reached where there is other work.
    fn batch(
        &self,
        current: &Current,
        claim: &Claim,
        search: &Search,
        from: u32,
        end: u32,
    ) -> Result<u32, Closed> {
        let first = claim.header.nonce;
        let mut at = from;
        while at < end {
            let Some(nonce) = search.find(first + at, end - at) else {
                at = end;
                break;
            };
            at = nonce - first + 1;
            let share = Share {
                work: current.work.clone(),
                extranonce2: claim.extranonce2.clone(),
                version_bits: claim.version_bits,
                nonce,
            };
            self.shares.blocking_send(share).map_err(|_| Closed)?;
            if !self.feed.is(current) {
                break;
            }
        }
        self.hashes
            .fetch_add(u64::from(at - from), Ordering::Relaxed);
        Ok(at)
    }
}
