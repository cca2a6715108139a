//! The miner: threads that hash, and a connection that is made again for ever.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;

use crate::{
    Config, Error, StatusHandle,
    backoff::Backoff,
    config::Checked,
    connection::{Connection, Disconnect, Timeouts},
    feed::Feed,
    job::{Claims, Share},
    server::Server,
    session::{Session, Settings},
    status::{Counters, count},
    threads::Threads,
};

/// A miner that is configured and not yet running.
pub struct Miner {
    address: String,
    server: Server,
    settings: Settings,
    checked: Checked,
    counters: Arc<Counters>,
}

impl fmt::Debug for Miner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Miner")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Miner {
    /// Checks the configuration; there is nothing to bind.
    ///
    /// # Errors
    /// [`Error::Config`] names the key that is wrong, or the file that cannot be read.
    pub fn new(config: Config) -> Result<Self, Error> {
        let checked = config.checked()?;
        Ok(Self {
            server: Server::new(checked.address.clone(), &config)?,
            address: config.address,
            settings: Settings {
                user: config.user,
                password: config.password,
                version_rolling: config.version_rolling,
                suggest_difficulty: checked.suggest_difficulty,
            },
            counters: Arc::new(Counters::new(checked.threads)),
            checked,
        })
    }

    /// A handle that reads the counters, also after the miner has stopped.
    pub fn status(&self) -> StatusHandle {
        StatusHandle(self.counters.clone())
    }

    /// Mines until `shutdown`, through every fault of the server.
    ///
    /// # Errors
    /// [`Error::Threads`] where the system gives no threads.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let feed = Arc::new(Feed::default());
        let (_threads, mut shares) =
            Threads::start(&self.counters.hashes, self.checked.limit, feed.clone())
                .map_err(Error::Threads)?;
        tracing::info!(
            address = self.address,
            user = self.settings.user,
            threads = self.checked.threads,
            "CPU miner: a tool for trying things out and for tests"
        );
        tokio::select! {
            () = self.mine(&feed, &mut shares, &shutdown) => Ok(()),
            never = self.sample() => match never {},
            never = self.report() => match never {},
        }
    }

    /// Connects again and again until `shutdown`.
    async fn mine(
        &self,
        feed: &Feed,
        shares: &mut mpsc::Receiver<Share>,
        shutdown: &CancellationToken,
    ) {
        let claims = Claims::default();
        let mut backoff =
            Backoff::new(self.checked.reconnect_first, self.checked.reconnect_longest);
        loop {
            let session = Session::new(self.settings.clone(), claims.clone());
            let jobs = self.counters.jobs.load(Relaxed);
            let end = tokio::select! {
                end = self.connect(session, feed, shares, shutdown) => end,
                () = shutdown.cancelled() => Disconnect::Shutdown,
            };
            if matches!(end, Disconnect::Shutdown) {
                return;
            }
            // A server that accepts and gives no work is as good as none.
            if self.counters.jobs.load(Relaxed) != jobs {
                backoff.reset();
            }
            let mut wait = backoff.wait(rand::random());
            if let Disconnect::Reconnect(seconds) = end {
                let asked = Duration::from_secs(seconds).min(self.checked.reconnect_longest);
                wait = wait.max(asked);
            }
            tracing::warn!(address = self.address, reason = %end, ?wait, "not mining; will reconnect");
            tokio::select! {
                () = time::sleep(wait) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// One connection. A host and port in the server's `client.reconnect` are not followed: whoever can write into a
    /// plain connection could take the miner elsewhere with it.
    async fn connect(
        &self,
        session: Session,
        feed: &Feed,
        shares: &mut mpsc::Receiver<Share>,
        shutdown: &CancellationToken,
    ) -> Disconnect {
        let halves = match self.server.dial(self.checked.connect_timeout).await {
            Ok(halves) => halves,
            Err(error) => {
                count(&self.counters.connect_failures);
                return Disconnect::Connect(error);
            }
        };
        count(&self.counters.connects);
        tracing::info!(address = self.address, "connected");
        let timeouts = Timeouts {
            response: self.checked.response_timeout,
            silence: self.checked.silence_timeout,
        };
        Connection::new(halves, session, timeouts, feed, &self.counters)
            .run(shares, shutdown)
            .await
    }

    /// Looks at the hash counters once a second.
    async fn sample(&self) -> std::convert::Infallible {
        let started = Instant::now();
        let mut seconds = time::interval(Duration::from_secs(1));
        loop {
            seconds.tick().await;
            self.counters.sample(started.elapsed());
        }
    }

    /// Logs what is happening, where that is configured.
    async fn report(&self) -> std::convert::Infallible {
        let Some(interval) = self.checked.status_interval else {
            return std::future::pending().await;
        };
        loop {
            time::sleep(interval).await;
            let status = self.status().snapshot();
            let per_thread: Vec<String> = status
                .hashrate_per_thread
                .iter()
                .map(|rate| format!("{:.2} MH/s", rate / 1e6))
                .collect();
            tracing::info!(
                mining = status.mining,
                hashrate = %status.hashrate(),
                per_thread = per_thread.join(", "),
                difficulty = status.difficulty,
                submitted = status.submitted,
                accepted = status.accepted,
                rejected = status.rejected.total(),
                stale = status.stale,
                "status"
            );
        }
    }
}
