//! Many miners in one process, as a partner for tests: each with a connection and a conversation of its own, sending
//! shares of a chosen quality at a chosen rate.
//!
//! `hashpool miner --simulate` and the tests run it. A share that is to be good is found by hashing, which is what the low
//! difficulties of test stacks allow; beyond [`Options::most_hashes`] it is sent unworked, and counted as such.

mod arrivals;
mod connection;
mod latency;
mod options;
mod player;
mod shares;
mod tally;

use std::{fmt, sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, interval_at, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{Config, Error, config::Checked, server::Server, session::Settings};

pub use options::{Arrivals, Kind, Options, Quality, Rate};
pub use tally::{Outcome, Report};

use connection::Driver;
use tally::Tally;

/// Simulated miners that are configured and not yet running.
pub struct Simulation {
    farm: Arc<Farm>,
    checked: Checked,
}

/// What all simulated miners share.
struct Farm {
    server: Server,
    user: String,
    settings: Settings,
    options: Options,
    checked: Checked,
    tally: Tally,
    /// Dials at a time, so that a server's backlog is not overrun.
    dialling: Semaphore,
    /// Miners that hash at a time: one thread less than there are, which keeps answers from waiting for hashes.
    hashing: Semaphore,
    /// No more shares; who has all its answers leaves.
    finish: CancellationToken,
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("options", &self.farm.options)
            .finish_non_exhaustive()
    }
}

impl Simulation {
    /// Checks the configuration; of the miner's own, threads and the limit of the hashrate are not used.
    ///
    /// # Errors
    /// [`Error::Config`] names the key or the option that is wrong.
    pub fn new(config: Config, options: Options) -> Result<Self, Error> {
        options.check()?;
        let checked = config.checked()?;
        let server = Server::new(checked.address.clone(), &config)?;
        let farm = Farm {
            server,
            settings: Settings {
                user: String::new(),
                password: config.password,
                version_rolling: config.version_rolling,
                suggest_difficulty: checked.suggest_difficulty,
            },
            user: config.user,
            tally: Tally::default(),
            dialling: Semaphore::new(DIALS_AT_A_TIME),
            hashing: Semaphore::new(checked.threads),
            finish: CancellationToken::new(),
            checked: checked.clone(),
            options,
        };
        Ok(Self {
            farm: Arc::new(farm),
            checked,
        })
    }

    /// What has happened so far; also a way to look while it runs.
    pub fn watch(&self) -> impl Fn() -> Report + Send + use<> {
        let farm = self.farm.clone();
        move || farm.tally.report()
    }

    /// Runs for the time that the options say, or until `shutdown`; then no more shares are sent, and answers that are
    /// owed have a few seconds to come.
    pub async fn run(self, shutdown: CancellationToken) -> Report {
        let farm = self.farm;
        let began = Instant::now();
        let mut miners = JoinSet::new();
        for number in 0..farm.options.miners {
            miners.spawn(Driver::new(number, farm.clone()).run());
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = over(farm.options.time) => {}
            never = status_lines(&farm.tally, self.checked.status_interval, began) => match never {},
        }
        farm.finish.cancel();
        let all_left = async { while miners.join_next().await.is_some() {} };
        // What has no answer by then is reported as unanswered.
        let _ = timeout(GRACE, all_left).await;
        miners.shutdown().await;
        farm.tally.report()
    }
}

async fn over(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

async fn status_lines(
    tally: &Tally,
    interval: Option<Duration>,
    began: Instant,
) -> std::convert::Infallible {
    let Some(interval) = interval else {
        return std::future::pending().await;
    };
    let mut ticks = interval_at(began + interval, interval);
    loop {
        ticks.tick().await;
        let report = tally.report();
        tracing::info!(
            connected = report.connected,
            submitted = report.submitted(),
            accepted = report.accepted(),
            rejected = report.rejected(),
            unanswered = report.unanswered(),
            p50_ms = report.answer_p50_ms,
            p99_ms = report.answer_p99_ms,
            "simulated miners"
        );
    }
}

const DIALS_AT_A_TIME: usize = 128;
/// How long answers are waited for at the end.
const GRACE: Duration = Duration::from_secs(5);
