//! Miners that send shares at a steady rate: what a share costs from the miner's socket to the pool's books.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bench_pool::Result;

use crate::{
    farm::Farm,
    subject::{PATIENCE, Stack},
};

/// Between two looks at what the pool has accepted.
const LOOK: Duration = Duration::from_millis(250);

/// For how long nothing may change until no more is waited for; SRI's pool shows what it had seconds ago.
const SETTLED: Duration = Duration::from_secs(11);

/// The load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) miners: usize,
    /// Of all together.
    pub(crate) shares_per_second: f64,
    pub(crate) time: Duration,
}

impl Load {
    /// The shares of one miner.
    pub(crate) fn each(&self) -> u64 {
        (self.shares_per_second * self.time.as_secs_f64() / self.miners as f64).ceil() as u64
    }

    /// The moments for these miners.
    pub(crate) fn pace(&self, miners: &[usize]) -> Pace {
        Pace::new(miners, self.shares_per_second, self.each())
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Cost {
    pub(crate) sent: u64,
    /// The pool's own count.
    pub(crate) accepted: u64,
    /// What miners were told, by error.
    pub(crate) refused: BTreeMap<String, u64>,
    pub(crate) wall: Duration,
    pub(crate) translator: Duration,
    pub(crate) pool: Duration,
    /// From writing a share to its answer, sorted.
    pub(crate) waits: Vec<Duration>,
}

pub(crate) fn measure(stack: &Stack, load: Load) -> Result<Cost> {
    let mut farm = Farm::new(stack.address)?;
    farm.connect_all(load.miners, Duration::from_millis(200), PATIENCE)?;
    farm.check()?;
    let all: Vec<usize> = (0..load.miners).collect();
    let each = load.each();
    farm.find_shares(&all, usize::try_from(each)?)?;
    for miner in &mut farm.miners {
        miner.timed = true;
    }
    let accepted_before = stack.accepted()?;
    let before = stack.cpu()?;
    let start = Instant::now();
    let mut pace = load.pace(&all);
    while !pace.is_over() {
        pace.submit(&mut farm, start.elapsed())?;
        farm.turn(1)?;
        farm.check()?;
    }
    let sent = each * load.miners as u64;
    farm.run_until(PATIENCE, |farm| answered(farm) >= sent)?;
    let refused = refused(&farm);
    let (accepted, wall) = settle(stack, &mut farm, start, accepted_before, sent)?;
    let (translator, pool) = stack.cpu()?.since(&before);
    let mut waits: Vec<Duration> = farm
        .miners
        .iter()
        .flat_map(|miner| miner.waits.iter().copied())
        .collect();
    waits.sort_unstable();
    Ok(Cost {
        sent,
        accepted,
        refused,
        wall,
        translator,
        pool,
        waits,
    })
}

/// When whose share is due.
pub(crate) struct Pace {
    /// Between two shares of one miner.
    interval: Duration,
    each: u64,
    /// A miner's number, how many it has sent, and when its first one is due.
    miners: Vec<(usize, u64, Duration)>,
}

impl Pace {
    /// `each` shares for each of these miners, evenly spread.
    fn new(miners: &[usize], shares_per_second: f64, each: u64) -> Self {
        let interval = miners.len() as f64 / shares_per_second;
        let first = |at: usize| Duration::from_secs_f64(interval * at as f64 / miners.len() as f64);
        Self {
            interval: Duration::from_secs_f64(interval),
            each,
            miners: miners
                .iter()
                .enumerate()
                .map(|(at, number)| (*number, 0, first(at)))
                .collect(),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.miners.iter().all(|(_, sent, _)| *sent >= self.each)
    }

    /// Sends what is due, of each miner with one write.
    pub(crate) fn submit(&mut self, farm: &mut Farm, elapsed: Duration) -> Result<()> {
        for (number, sent, first) in &mut self.miners {
            let due = elapsed.saturating_sub(*first).as_secs_f64() / self.interval.as_secs_f64();
            let due = if elapsed < *first { 0 } else { due as u64 + 1 };
            let due = due.min(self.each);
            // One that is cut off, as translators may, sends no more.
            if due > *sent && !farm.has_failed(*number) {
                *sent += farm.submit(*number, due - *sent)?;
            }
        }
        Ok(())
    }
}

pub(crate) fn answered(farm: &Farm) -> u64 {
    farm.miners.iter().map(crate::miner::Miner::answered).sum()
}

pub(crate) fn refused(farm: &Farm) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::<String, u64>::new();
    for (why, count) in farm.miners.iter().flat_map(|miner| &miner.refused) {
        *sums.entry(why.clone()).or_default() += count;
    }
    sums
}

/// Waits until the pool has accepted so many or its count no longer changes; the count, and when it was reached.
pub(crate) fn settle(
    stack: &Stack,
    farm: &mut Farm,
    start: Instant,
    before: u64,
    expected: u64,
) -> Result<(u64, Duration)> {
    let mut accepted = 0;
    let mut changed = Instant::now();
    loop {
        let count = stack.accepted()?.saturating_sub(before);
        if count != accepted {
            accepted = count;
            changed = Instant::now();
        }
        if accepted >= expected || changed.elapsed() > SETTLED {
            return Ok((accepted, changed - start));
        }
        farm.rest(LOOK)?;
    }
}
