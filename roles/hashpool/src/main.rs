//! The one binary: a subcommand per role, `up` for all of them in one process, and the tools around them.
//!
//! Operators call it. It loads configurations and starts roles; it holds no mining logic of its own.

mod bill;
mod cli;
mod failure;
mod keygen;
mod ledger_report;
mod role;
mod secret_file;
mod simulate;
mod table;
mod up;

use std::future::Future;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use service::{logs, reload, shutdown};
use tokio_util::sync::CancellationToken;

use crate::cli::{Cli, Command, Log, RelayCommand, RoleArgs};
use crate::failure::Failure;
use crate::role::Role;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell if standard error is gone too.
            let _ = writeln!(std::io::stderr(), "hashpool: {failure}");
            failure.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Pool(args) => run_role::<role::Pool>(&args, &cli.log),
        Command::TemplateProvider(args) => run_role::<role::TemplateProvider>(&args, &cli.log),
        Command::Translator(args) => run_role::<role::Translator>(&args, &cli.log),
        Command::Miner(args) => match args.simulate {
            Some(miners) => simulate::run(&args, miners, &cli.log),
            None => run_role::<role::Miner>(&args.role, &cli.log),
        },
        Command::PoolStats(args) => run_role::<role::PoolStats>(&args, &cli.log),
        Command::ProxyStats(args) => run_role::<role::ProxyStats>(&args, &cli.log),
        Command::Relay(args) => match args.command {
            Some(RelayCommand::Bill(args)) => {
                logs::init(&cli.log.config("warn")).map_err(Failure::configuration)?;
                until_stopped(|_| bill::run(args))
            }
            None => run_role::<role::Relay>(&args.role, &cli.log),
        },
        Command::Up(args) => {
            // What happens is printed for people; the log is for what is wrong.
            logs::init(&cli.log.config("warn")).map_err(Failure::configuration)?;
            until_stopped(|shutdown| up::run(args, shutdown))
        }
        Command::Ledger(args) => {
            logs::init(&cli.log.config("warn")).map_err(Failure::configuration)?;
            until_stopped(|_| ledger_report::run(args))
        }
        Command::Keygen(args) => keygen::run(&args),
    }
}

fn run_role<R: Role>(args: &RoleArgs, log: &Log) -> Result<(), Failure> {
    let config = role::load::<R>(args)?;
    if args.check_config {
        return role::print::<R>(&config);
    }
    let level = R::short_names()?.log_level;
    let level = level.as_deref().unwrap_or("info");
    logs::init(&log.config(level)).map_err(Failure::configuration)?;
    until_stopped(|shutdown| async {
        // Whoever asks all roles to read their files again must not end those that read none.
        reload::on_hangup()
            .map_err(|error| Failure::running(format!("cannot watch for signals: {error}")))?;
        let result = R::run(config, shutdown).await;
        result.map_err(|error| Failure::running(format!("{}: {error}", R::NAME)))
    })
}

/// Runs `work` on a runtime of its own, with a token that signals cancel.
fn until_stopped<F>(work: impl FnOnce(CancellationToken) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::running(format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(async {
        let shutdown = shutdown::on_signals()
            .map_err(|error| Failure::running(format!("cannot watch for signals: {error}")))?;
        work(shutdown).await
    });
    // A thread that waits for a disk or a name server must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}
