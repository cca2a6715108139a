//! Miners that send far more shares than they should: what becomes of its memory, of miners that come later, of
//! an honest miner beside them, and of the shares.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use bench_pool::Result;

use crate::{
    farm::Farm,
    http,
    load::{Load, answered, refused, settle},
    subject::{PATIENCE, Stack},
};

/// What one miner sends each second to flood the translator on its own.
const ALONE: f64 = 20_000.0;

/// Between two miners that come while others flood.
const JOIN_EVERY: Duration = Duration::from_millis(200);

/// Between two looks at memory and counts.
const LOOK: Duration = Duration::from_millis(250);

/// For how long the translator may not read what a flooding miner has begun to write.
const FINISH: Duration = Duration::from_secs(10);

/// What came of a flood.
#[derive(Debug)]
pub(crate) struct Flood {
    /// Resident memory of the translator in bytes: before, at most, and when all was answered.
    pub(crate) memory: [u64; 3],
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    pub(crate) refused: BTreeMap<String, u64>,
    /// The pool's own count.
    pub(crate) accepted: u64,
    /// Flooding miners that were cut off, or connections that failed otherwise.
    pub(crate) cut_off: usize,
    /// The most shares that miners had been told were accepted when the pool had not accepted them.
    pub(crate) most_told_early: u64,
    /// Of miners that came during the flood, sorted; none is longer than the patience.
    pub(crate) joiners: Vec<Duration>,
    /// From the end of the flood to the last answer.
    pub(crate) drained_after: Duration,
}

pub(crate) fn measure(stack: &Stack, load: Load) -> Result<Flood> {
    let Load { miners, time, .. } = load;
    let mut farm = Farm::new(stack.address)?;
    farm.connect_all(miners, Duration::from_millis(200), PATIENCE)?;
    farm.check()?;
    let all: Vec<usize> = (0..miners).collect();
    farm.find_shares(&all, usize::try_from(load.each())?)?;
    let accepted_before = stack.accepted()?;
    let memory_before = stack.translator.memory()?.resident;
    let watch = Watch::start(stack, accepted_before)?;
    let mut peak = memory_before;
    let start = Instant::now();
    let mut looked = start;
    let mut pace = load.pace(&all);
    while start.elapsed() < time {
        pace.submit(&mut farm, start.elapsed())?;
        let joined = u32::try_from(farm.miners.len() - miners)?;
        if start.elapsed() > JOIN_EVERY * (joined + 1) {
            farm.connect()?;
        }
        farm.turn(1)?;
        if looked.elapsed() > LOOK / 5 {
            looked = Instant::now();
            let memory = stack.translator.memory();
            peak = memory.map_or(peak, |memory| peak.max(memory.resident));
            watch.told.store(told(&farm), Relaxed);
        }
    }
    let joined = farm.miners.len();
    let end = Instant::now();
    finish_lines(&mut farm, &all)?;
    let sent: u64 = farm.miners.iter().map(|miner| miner.shares.begun()).sum();
    farm.run_until(PATIENCE, |farm| {
        answered(farm) >= sent && farm.ready >= joined
    })?;
    let drained_after = end.elapsed();
    let (most_told_early, last_seen) = watch.stop()?;
    let told = told(&farm);
    // There are programs that do not live to see this.
    let settled = settle(stack, &mut farm, start, accepted_before, told);
    let (settled, _) = settled.unwrap_or((0, end - start));
    // SRI's pool forgets the shares of a connection that has ended.
    let accepted = last_seen.max(settled);
    let memory = stack
        .translator
        .memory()
        .map_or(peak, |memory| memory.resident);
    let mut joiners: Vec<Duration> = farm.miners[miners..]
        .iter()
        .map(|miner| match miner.first_job_at {
            Some(at) => at.saturating_sub(miner.connected_at),
            None => PATIENCE,
        })
        .collect();
    joiners.sort_unstable();
    Ok(Flood {
        memory: [memory_before, peak.max(memory), memory],
        sent,
        answered: answered(&farm),
        refused: refused(&farm),
        accepted,
        cut_off: farm.failed.len(),
        most_told_early,
        joiners,
        drained_after,
    })
}

/// How long an honest miner waits for answers, sorted: alone, and beside one that floods. None is longer than the
/// patience.
pub(crate) fn honest(
    stack: &Stack,
    shares_per_second: f64,
    time: Duration,
) -> Result<[Vec<Duration>; 2]> {
    let mut farm = Farm::new(stack.address)?;
    farm.connect_all(2, Duration::from_millis(10), PATIENCE)?;
    farm.check()?;
    let load = |shares_per_second| Load {
        miners: 1,
        shares_per_second,
        time,
    };
    let (honest, flood) = (load(shares_per_second), load(ALONE));
    let each = honest.each();
    farm.find_shares(&[0], usize::try_from(2 * each)?)?;
    farm.find_shares(&[1], usize::try_from(flood.each())?)?;
    farm.miners[0].timed = true;
    let mut found = [Vec::new(), Vec::new()];
    for (waits, flooding) in found.iter_mut().zip([false, true]) {
        let start = Instant::now();
        let (mut pace, mut flood) = (honest.pace(&[0]), flood.pace(&[1]));
        while !pace.is_over() && start.elapsed() < 3 * time && !farm.has_failed(0) {
            pace.submit(&mut farm, start.elapsed())?;
            if flooding {
                flood.submit(&mut farm, start.elapsed())?;
            }
            farm.turn(1)?;
        }
        farm.run_until(PATIENCE, |farm| {
            farm.miners[0].waits.len() as u64 >= each || farm.has_failed(0)
        })?;
        *waits = std::mem::take(&mut farm.miners[0].waits);
        // One without an answer has waited so long at least.
        waits.resize(usize::try_from(each)?, PATIENCE);
        waits.sort_unstable();
    }
    Ok(found)
}

/// Writes the rest of each line that was begun, so that there is an answer to it.
fn finish_lines(farm: &mut Farm, miners: &[usize]) -> Result<()> {
    let deadline = Instant::now() + FINISH;
    loop {
        let mut unfinished = 0;
        for number in miners {
            if farm.miners[*number].shares.is_within_a_line() && !farm.has_failed(*number) {
                unfinished += 1;
                farm.submit(*number, 1)?;
            }
        }
        if unfinished == 0 || Instant::now() > deadline {
            return Ok(());
        }
        farm.turn(1)?;
    }
}

fn told(farm: &Farm) -> u64 {
    farm.miners.iter().map(|miner| miner.accepted).sum()
}

/// A thread that asks the pool for its count again and again, because the answer may take long.
struct Watch {
    /// What miners have been told.
    told: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: thread::JoinHandle<(u64, u64)>,
}

impl Watch {
    fn start(stack: &Stack, accepted_before: u64) -> Result<Self> {
        let (address, metric) = stack.counter().ok_or("the pool shows no metrics")?;
        let told = Arc::new(AtomicU64::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (told, over) = (Arc::clone(&told), Arc::clone(&over));
            move || {
                let (mut most, mut last) = (0, 0);
                while !over.load(Relaxed) {
                    // Before the pool is asked, so that the difference is no larger than it was.
                    let told = told.load(Relaxed);
                    if let Ok(accepted) = http::sum(address, metric) {
                        last = last.max(accepted.saturating_sub(accepted_before));
                        most = most.max(told.saturating_sub(last));
                    }
                    thread::sleep(LOOK);
                }
                (most, last)
            }
        });
        Ok(Self { told, over, thread })
    }

    /// The most that miners were told early, and the pool's last count.
    fn stop(self) -> Result<(u64, u64)> {
        self.over.store(true, Relaxed);
        self.thread
            .join()
            .map_err(|_| "the thread that watches the pool has failed".into())
    }
}
