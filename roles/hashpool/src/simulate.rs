//! `hashpool miner --simulate`: many miners in one process, and what they saw when they are done.

use std::io::{self, Write as _};
use std::time::Duration;

use miner::simulate::{Options, Simulation};
use service::logs;

use crate::cli::{Log, MinerArgs};
use crate::failure::Failure;
use crate::{role, until_stopped};

/// Runs the simulation and prints its totals.
pub(crate) fn run(args: &MinerArgs, miners: u32, log: &Log) -> Result<(), Failure> {
    let config = role::load::<role::Miner>(&args.role)?;
    let simulation =
        Simulation::new(config.clone(), options(args, miners)).map_err(Failure::configuration)?;
    if args.role.check_config {
        return role::print::<role::Miner>(&config);
    }
    logs::init(&log.config("info")).map_err(Failure::configuration)?;
    until_stopped(|shutdown| async {
        let report = simulation.run(shutdown).await;
        io::stdout()
            .write_all(report.to_string().as_bytes())
            .map_err(Failure::running)
    })
}

fn options(args: &MinerArgs, miners: u32) -> Options {
    Options {
        miners,
        rate: args.rate,
        arrivals: args.arrivals,
        quality: args.quality,
        seed: args.seed,
        time: args.seconds.map(Duration::from_secs),
        most_hashes: args.most_hashes,
    }
}
