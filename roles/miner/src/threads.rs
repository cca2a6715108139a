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

#[cfg(test)]
mod tests {
    use work::Difficulty;

    use super::*;
    use crate::job::{Claims, Epoch, Work, tests::template};

    /// Work of which every hash is a share.
    fn work(job_id: &str) -> Option<Arc<Work>> {
        Some(Arc::new(Work::new(
            job_id.to_owned(),
            Epoch::default(),
            Difficulty::new(1e-12).unwrap(),
            template(4, 0),
            &Claims::default(),
            None,
        )))
    }

    fn start(limit: f64) -> (Arc<Feed>, Threads, mpsc::Receiver<Share>) {
        let feed = Arc::new(Feed::default());
        let limit = Hashrate::new(limit).unwrap();
        let (threads, shares) = Threads::start(&[Arc::default()], limit, feed.clone()).unwrap();
        (feed, threads, shares)
    }

    #[test]
    fn new_work_interrupts_the_search() {
        // A claim would take many seconds, and holds far more shares than may wait.
        let (feed, _threads, mut shares) = start(2_000.0);
        feed.publish(work("old"));
        assert_eq!(shares.blocking_recv().unwrap().work.job_id, "old");
        feed.publish(work("new"));
        let mut old = 0;
        while shares.blocking_recv().unwrap().work.job_id == "old" {
            old += 1;
            // Those that waited, and the one that was being handed over.
            assert!(old <= SHARES_WAITING + 1, "the old work goes on");
        }
    }

    #[test]
    fn work_taken_away_ends_the_search_and_the_next_begins_another() {
        let (feed, _threads, mut shares) = start(0.0);
        feed.publish(work("old"));
        shares.blocking_recv().unwrap();
        feed.publish(None);
        feed.publish(work("new"));
        while shares.blocking_recv().unwrap().work.job_id == "old" {}
    }

    #[test]
    fn a_thread_ends_whatever_it_waits_for() {
        // For work.
        let (_, threads, mut shares) = start(0.0);
        drop(threads);
        assert!(shares.blocking_recv().is_none());
        // For the time of its next hash, in a quarter of an hour.
        let (feed, threads, mut shares) = start(0.001);
        feed.publish(work("slow"));
        shares.blocking_recv().unwrap();
        drop(threads);
        assert!(shares.blocking_recv().is_none());
        // For room for its shares.
        let (feed, threads, mut shares) = start(0.0);
        feed.publish(work("fast"));
        while shares.len() < SHARES_WAITING {
            thread::yield_now();
        }
        drop(threads);
        while shares.blocking_recv().is_some() {}
    }
}
