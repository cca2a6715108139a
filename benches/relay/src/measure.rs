//! What is measured of one subject, each with connections of its own.

use std::{
    thread,
    time::{Duration, Instant},
};

use bench_pool::Result;
use serde::Serialize;

use crate::{
    farm::Farm,
    pool::Pool,
    subject::Running,
    usage::{Times, memory},
};

/// Jobs from the pool, as fast as they come through.
#[derive(Debug, Serialize)]
pub(crate) struct Stream {
    pub(crate) connections: usize,
    pub(crate) megabytes_per_second: f64,
    pub(crate) cpu_us_per_megabyte: f64,
}

pub(crate) fn stream(
    running: &mut Running,
    pool: &Pool,
    connections: usize,
    time: Duration,
) -> Result<Stream> {
    let mut farm = Farm::connect(running.address, connections)?;
    pool.pump(true);
    // Until buffers are full.
    flow(&mut farm, WARM_UP)?;
    let times = Times::of(running.process.as_ref())?;
    let (begun, before) = (Instant::now(), farm.received);
    flow(&mut farm, time)?;
    let seconds = begun.elapsed().as_secs_f64();
    let used = Times::of(running.process.as_ref())?.since(&times);
    let megabytes = (farm.received - before) as f64 / 1e6;
    Ok(Stream {
        connections,
        megabytes_per_second: megabytes / seconds,
        cpu_us_per_megabyte: used.as_secs_f64() * 1e6 / megabytes,
    })
}

fn flow(farm: &mut Farm, time: Duration) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < time {
        farm.turn(Duration::from_millis(5))?;
    }
    Ok(())
}

/// From writing a share to its answer, with nothing else going on.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) round_trips: usize,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) cpu_us_per_round_trip: f64,
}

pub(crate) fn latency(running: &Running, round_trips: usize) -> Result<Latency> {
    let mut farm = Farm::connect(running.address, 1)?;
    let mut waits = Vec::with_capacity(round_trips);
    let times = Times::of(running.process.as_ref())?;
    for _ in 0..round_trips {
        let wanted = farm.answered + 1;
        let sent = farm.submit(0)?;
        let begun = Instant::now();
        while farm.answered < wanted {
            farm.turn(Duration::from_millis(100))?;
            if begun.elapsed() > PATIENCE {
                return Err("a share has no answer".into());
            }
        }
        waits.push(farm.heard.saturating_sub(sent));
        // Whatever it was that the answer made busy goes to sleep again, as it does between real shares.
        thread::sleep(BETWEEN);
    }
    let used = Times::of(running.process.as_ref())?.since(&times);
    waits.sort_unstable();
    let percentile = |percent: usize| {
        let at = waits.len().saturating_sub(1) * percent / 100;
        waits.get(at).map_or(f64::NAN, Duration::as_secs_f64) * 1e6
    };
    Ok(Latency {
        round_trips,
        p50_us: percentile(50),
        p99_us: percentile(99),
        cpu_us_per_round_trip: used.as_secs_f64() * 1e6 / round_trips as f64,
    })
}

/// Many miners that each send a share now and then.
#[derive(Debug, Serialize)]
pub(crate) struct Submits {
    pub(crate) connections: usize,
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    pub(crate) cpu_us_per_submit: f64,
}

pub(crate) fn submits(
    running: &Running,
    connections: usize,
    each_per_second: f64,
    time: Duration,
) -> Result<Submits> {
    let mut farm = Farm::connect(running.address, connections)?;
    let times = Times::of(running.process.as_ref())?;
    let per_second = each_per_second * connections as f64;
    let all = (per_second * time.as_secs_f64()) as u64;
    let begun = Instant::now();
    let mut sent = 0;
    while sent < all {
        let due = ((begun.elapsed().as_secs_f64() * per_second) as u64).min(all);
        while sent < due {
            farm.submit((sent % connections as u64) as usize)?;
            sent += 1;
        }
        farm.turn(Duration::from_millis(1))?;
    }
    let deadline = Instant::now() + PATIENCE;
    while farm.answered < sent && Instant::now() < deadline {
        farm.turn(Duration::from_millis(10))?;
    }
    let used = Times::of(running.process.as_ref())?.since(&times);
    Ok(Submits {
        connections,
        sent,
        answered: farm.answered,
        cpu_us_per_submit: used.as_secs_f64() * 1e6 / sent as f64,
    })
}

/// Connections that have a job and are silent.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) connections: usize,
    pub(crate) megabytes_before: f64,
    pub(crate) megabytes: f64,
    pub(crate) kilobytes_per_connection: f64,
}

pub(crate) fn idle(running: &Running, connections: usize) -> Result<Idle> {
    let before = memory(running.process.as_ref())? as f64;
    let mut farm = Farm::connect(running.address, connections)?;
    // Until what was said at the beginning is done with.
    flow(&mut farm, WARM_UP)?;
    let with = memory(running.process.as_ref())? as f64;
    Ok(Idle {
        connections,
        megabytes_before: before / 1e6,
        megabytes: with / 1e6,
        kilobytes_per_connection: (with - before) / connections as f64 / 1e3,
    })
}

const WARM_UP: Duration = Duration::from_secs(1);
const BETWEEN: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(10);
