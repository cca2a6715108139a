//! The one task that writes: it takes what has been booked, and commits it once an interval.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{error, info, warn};

use crate::{
    Health, StorageConfig,
    batch::{Batch, Names, Waiting},
    block::now_ms,
    booking::{Order, Outlet},
    store::{self, Committed, Connection, RolledUp, Server, Url},
};

/// After this time a commit counts as stalled, though it may still succeed.
const SLOW: Duration = Duration::from_secs(2);
/// After this time a connection that gives no answer is given up.
const GIVE_UP: Duration = Duration::from_secs(20);
/// Pauses between tries.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often old minutes are looked for, and how soon again where there were some.
const ROLL_UP_INTERVAL: Duration = Duration::from_secs(10);
const ROLL_UP_NEXT: Duration = Duration::from_millis(200);

const NO_ANSWER: &str = "the database gives no answer";

pub(crate) struct Writer {
    url: Url,
    /// None after a failure; made anew for the next try.
    connection: Option<Connection>,
    server: Server,
    orders: Outlet,
    health: watch::Sender<Health>,
    interval: Duration,
    minutes_kept: i64,
    names: Names,
    last_batch: i64,
    next_commit: Instant,
    next_roll_up: Instant,
}

impl Writer {
    pub(crate) fn new(
        config: &StorageConfig,
        url: Url,
        connection: Connection,
        server: Server,
        orders: Outlet,
        health: watch::Sender<Health>,
    ) -> Self {
        let now = Instant::now();
        Self {
            url,
            connection: Some(connection),
            server,
            orders,
            health,
            interval: config.commit_interval(),
            minutes_kept: i64::from(config.minutes_kept_hours) * 60,
            names: Names::new(config.workers_per_account),
            last_batch: 0,
            next_commit: now,
            next_roll_up: now + ROLL_UP_INTERVAL,
        }
    }

    /// Runs until nobody can book any more and all is committed, or until another process has taken over.
    pub(crate) async fn run(mut self) {
        loop {
            let first = tokio::select! {
                order = self.orders.recv() => match order {
                    Some(order) => order,
                    None => return,
                },
                () = sleep_until(self.next_roll_up) => {
                    if self.roll_up().await == RolledUp::TakenOver {
                        return self.taken_over();
                    }
                    continue;
                }
            };
            sleep_until(self.next_commit).await;
            self.next_commit = self.after(Instant::now());
            let (batch, waiting) = self.gather(first);
            match self.commit(Arc::new(batch)).await {
                Committed::Yes => waiting.committed(),
                Committed::TakenOver => return self.taken_over(),
            }
        }
    }

    fn taken_over(&self) {
        error!(
            server_id = self.server.id,
            "another process with this server_id writes to the ledger; this one stops"
        );
        self.health.send_replace(Health::TakenOver);
    }

    /// When the commit after this one may begin. A timer that fires late does not delay those after it.
    fn after(&self, now: Instant) -> Instant {
        let next = self.next_commit + self.interval;
        if next > now {
            next
        } else {
            now + self.interval
        }
    }

    fn gather(&mut self, first: Order) -> (Batch, Waiting) {
        self.last_batch += 1;
        let mut batch = Batch::new(self.last_batch);
        let mut waiting = Waiting::default();
        batch.add(first, &mut self.names, &mut waiting);
        while let Ok(order) = self.orders.try_recv() {
            batch.add(order, &mut self.names, &mut waiting);
        }
        (batch, waiting)
    }

    /// Tries until the batch is in, the same batch each time, or until it never will be.
    async fn commit(&mut self, batch: Arc<Batch>) -> Committed {
        let server = self.server;
        let mut pause = FIRST_PAUSE;
        loop {
            let committed = self
                .attempt(async |connection| connection.commit(server, Arc::clone(&batch)).await)
                .await;
            if let Some(committed) = committed {
                return committed;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Moves the oldest minute that is no longer kept into its hour. Where no shares come, this also finds out whether
    /// the database can be written.
    async fn roll_up(&mut self) -> RolledUp {
        let before = now_ms() / 60_000 - self.minutes_kept;
        let server = self.server;
        let rolled_up = self
            .attempt(async |connection| connection.roll_up(server, before).await)
            .await;
        let pause = match rolled_up {
            Some(RolledUp::Minute) => ROLL_UP_NEXT,
            _ => ROLL_UP_INTERVAL,
        };
        self.next_roll_up = Instant::now() + pause;
        rolled_up.unwrap_or(RolledUp::Nothing)
    }

    /// Does something with the database, and publishes whether that was possible.
    async fn attempt<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, diesel::result::Error>,
    ) -> Option<T> {
        // Taken out, so that a connection in an unknown state is not used again.
        let (url, connection) = (&self.url, self.connection.take());
        let attempt = async {
            let mut connection = open(connection, url).await?;
            let done = work(&mut connection).await;
            Ok((connection, done.map_err(|error| error.to_string())?))
        };
        tokio::pin!(attempt);
        let result = match timeout(SLOW, &mut attempt).await {
            Ok(result) => result,
            Err(_) => {
                self.publish(Health::Stalled(NO_ANSWER.to_owned()));
                match url {
                    // It is at work on a thread that cannot be called back; another one would not fare better.
                    Url::Sqlite(_) => attempt.await,
                    Url::Postgres { .. } => timeout(GIVE_UP, attempt)
                        .await
                        .unwrap_or_else(|_| Err(NO_ANSWER.to_owned())),
                }
            }
        };
        match result {
            Ok((connection, done)) => {
                self.connection = Some(connection);
                self.publish(Health::Writable);
                Some(done)
            }
            Err(problem) => {
                self.publish(Health::Stalled(problem));
                None
            }
        }
    }

    /// Tells of a change, and logs it once.
    fn publish(&self, health: Health) {
        self.health.send_if_modified(|known| {
            let was_writable = *known == Health::Writable;
            match &health {
                Health::Writable if !was_writable => info!("the ledger is written again"),
                Health::Stalled(problem) if was_writable => {
                    warn!(problem, "the ledger cannot be written; shares wait");
                }
                _ => {}
            }
            let changed = *known != health;
            *known = health;
            changed
        });
    }
}

/// The connection that is there, or a new one.
async fn open(connection: Option<Connection>, url: &Url) -> Result<Connection, String> {
    match connection {
        Some(connection) => Ok(connection),
        None => store::connect(url, false)
            .await
            .map_err(|error| error.to_string()),
    }
}
