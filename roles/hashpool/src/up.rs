//! `hashpool up`: chain, pool, translator, miner and the stats services in one process, for trying things out.
//!
//! The roles talk over real sockets, exactly as they do apart; only their start, their stop and their figures are
//! brought together here.

mod configs;
mod folder;
mod keys;
mod report;
mod roles;
mod stack;

use std::io::{self, Write};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use self::keys::Keys;
use self::report::{Blocks, Clock};
use self::stack::Stack;
use crate::cli::UpArgs;
use crate::failure::Failure;

/// How often a line says how things are.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// How soon a block found is told.
const BLOCK_INTERVAL: Duration = Duration::from_millis(200);

/// Runs until the token is cancelled or a role fails, then stops everything in order and prints totals.
pub(crate) async fn run(args: UpArgs, shutdown: CancellationToken) -> Result<(), Failure> {
    let _claim = folder::claim(&args.data)?;
    let keys = Keys::in_folder(&args.data)?;
    let mut stack = Stack::start(&args, &keys).await?;
    say(&report::where_it_listens(&stack.places(&args, &keys)))?;

    let started = Instant::now();
    let mut status = interval(STATUS_INTERVAL);
    let mut blocks = interval(BLOCK_INTERVAL);
    for ticks in [&mut status, &mut blocks] {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick of an interval is at once, and there is nothing to tell yet.
        ticks.tick().await;
    }
    let mut told = Blocks::default();
    let result = loop {
        tokio::select! {
            () = shutdown.cancelled() => break Ok(()),
            failure = stack.failure() => break Err(failure),
            _ = blocks.tick() => {
                let now = stack.blocks();
                let lines = report::new_blocks(&told, &now, Clock(started.elapsed()));
                told = now;
                if let Err(failure) = say(&lines) {
                    break Err(failure);
                }
            }
            _ = status.tick() => {
                let line = report::status(&stack.figures(), Clock(started.elapsed()));
                if let Err(failure) = say(&line) {
                    break Err(failure);
                }
            }
        }
    };
    let stopped = stack.stop().await;
    let clock = Clock(started.elapsed());
    say(&report::new_blocks(&told, &stopped.figures.blocks, clock))?;
    say(&report::totals(&stopped.figures, clock))?;
    result.and(stopped.result)
}

/// Prints for people; the log is for what is wrong.
fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read this has gone: `hashpool up | head` ends like any other program.
        Err(error) => Err(Failure::running(format!("cannot print: {error}"))),
        Ok(()) => Ok(()),
    }
}
