//! Miners that send no shares: how soon they have work, what each costs, and how soon all know of a new block.

use std::time::Duration;

use bench_pool::Result;
use tokio::runtime::Runtime;

use crate::{
    farm::Farm,
    miner::now,
    subject::{PATIENCE, Stack},
};

/// After a new block the miners do not read for so long, so that they take no processor from those who tell them: it is the
/// kernel that notes when a job arrives.
const QUIET: Duration = Duration::from_millis(400);

/// Between two blocks, and before the memory is looked at.
const REST: Duration = Duration::from_millis(500);

/// From the beginning of the connection to the arrival of the first job, sorted; one connects when the one before is ready.
pub(crate) fn one_by_one(stack: &Stack, count: usize) -> Result<Vec<Duration>> {
    let mut farm = Farm::new(stack.address)?;
    for number in 1..=count {
        farm.connect()?;
        farm.run_until(PATIENCE, |farm| {
            farm.ready == number || !farm.failed.is_empty()
        })?;
        farm.check()?;
    }
    let mut waits = waits(&farm);
    waits.sort_unstable();
    Ok(waits)
}

/// What came of a crowd.
#[derive(Debug)]
pub(crate) struct Crowd {
    pub(crate) connections: usize,
    /// That failed or had no work in time.
    pub(crate) refused: usize,
    /// From the beginning of a connection to its first job: of the last one to get it.
    pub(crate) last_ready: Duration,
    /// Resident, in bytes: without them, with them, and after the new blocks.
    pub(crate) before: u64,
    pub(crate) with: u64,
    pub(crate) after: u64,
    /// From the provider's write to the arrival at the first and at the last miner, for each block.
    pub(crate) blocks: Vec<(Duration, Duration)>,
}

/// All connect within a second and stay; then there are new blocks.
pub(crate) fn measure(
    stack: &Stack,
    runtime: &Runtime,
    count: usize,
    blocks: usize,
) -> Result<Crowd> {
    let before = stack.translator.memory()?.resident;
    let mut farm = Farm::new(stack.address)?;
    farm.connect_all(count, Duration::from_secs(1), PATIENCE)?;
    let ready = farm.ready;
    let last_ready = waits(&farm).into_iter().max().unwrap_or_default();
    farm.rest(REST)?;
    let with = stack.translator.memory()?.resident;
    let mut times = Vec::new();
    for _ in 0..blocks {
        times.push(block(stack, runtime, &mut farm, ready)?);
        farm.rest(REST)?;
    }
    Ok(Crowd {
        connections: count,
        refused: count - ready,
        last_ready,
        before,
        with,
        after: stack.translator.memory()?.resident,
        blocks: times,
    })
}

fn block(
    stack: &Stack,
    runtime: &Runtime,
    farm: &mut Farm,
    miners: usize,
) -> Result<(Duration, Duration)> {
    farm.await_clean_jobs();
    let announced = runtime.block_on(stack.pool.provider.announce())?;
    let announced_at = now().saturating_sub(announced.at.elapsed());
    std::thread::sleep(QUIET);
    if !farm.run_until(PATIENCE, |farm| farm.clean_jobs >= miners)? {
        return Err(format!("{} of {miners} were told of a block", farm.clean_jobs).into());
    }
    let arrivals = farm.miners.iter().filter_map(|miner| miner.clean_job_at);
    let times: Vec<Duration> = arrivals.map(|at| at.saturating_sub(announced_at)).collect();
    let first = times.iter().min().copied().unwrap_or_default();
    let last = times.iter().max().copied().unwrap_or_default();
    Ok((first, last))
}

fn waits(farm: &Farm) -> Vec<Duration> {
    farm.miners
        .iter()
        .filter_map(|miner| Some(miner.first_job_at?.saturating_sub(miner.connected_at)))
        .collect()
}
