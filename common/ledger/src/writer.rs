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
    store::{self, Committed, Connection, Server, Url},
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
                    self.roll_up().await;
                    continue;
                }
            };
            sleep_until(self.next_commit).await;
            self.next_commit = self.after(Instant::now());
            let (batch, waiting) = self.gather(first);
            if self.commit(Arc::new(batch)).await {
                waiting.committed();
            } else {
                error!(
                    server_id = self.server.id,
                    "another process with this server_id writes to the ledger; this one stops"
                );
                self.health.send_replace(Health::TakenOver);
                return;
            }
        }
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

    /// Tries until the batch is in, the same batch each time; false if it never will be.
    async fn commit(&mut self, batch: Arc<Batch>) -> bool {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.try_commit(&batch).await {
                Ok(Committed::Yes) => {
                    self.publish(Health::Writable);
                    return true;
                }
                Ok(Committed::TakenOver) => return false,
                Err(problem) => self.publish(Health::Stalled(problem)),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_commit(&mut self, batch: &Arc<Batch>) -> Result<Committed, String> {
        // Taken out, so that a connection in an unknown state is not used again.
        let connection = self.connection.take();
        let (url, server) = (&self.url, self.server);
        let attempt = async {
            let mut connection = open(connection, url).await?;
            let committed = connection
                .commit(server, Arc::clone(batch))
                .await
                .map_err(|error| error.to_string())?;
            Ok::<_, String>((connection, committed))
        };
        tokio::pin!(attempt);
        let result = match timeout(SLOW, &mut attempt).await {
            Ok(result) => result,
            Err(_) => {
                publish(&self.health, Health::Stalled(NO_ANSWER.to_owned()));
                timeout(GIVE_UP, attempt)
                    .await
                    .unwrap_or_else(|_| Err(NO_ANSWER.to_owned()))
            }
        };
        let (connection, committed) = result?;
        self.connection = Some(connection);
        Ok(committed)
    }

    /// Moves the oldest minute that is no longer kept into its hour. Where no shares come, this also finds out whether
    /// the database is there.
    async fn roll_up(&mut self) {
        let before = now_ms() / 60_000 - self.minutes_kept;
        let connection = self.connection.take();
        let (url, server) = (&self.url, self.server);
        let attempt = async {
            let mut connection = open(connection, url).await?;
            let moved = connection
                .roll_up(server, before)
                .await
                .map_err(|error| error.to_string())?;
            Ok::<_, String>((connection, moved))
        };
        let result = timeout(GIVE_UP, attempt)
            .await
            .unwrap_or_else(|_| Err(NO_ANSWER.to_owned()));
        let mut next = ROLL_UP_INTERVAL;
        match result {
            Ok((connection, moved)) => {
                self.connection = Some(connection);
                self.publish(Health::Writable);
                if moved {
                    next = ROLL_UP_NEXT;
                }
            }
            Err(problem) => self.publish(Health::Stalled(problem)),
        }
        self.next_roll_up = Instant::now() + next;
    }

    fn publish(&self, health: Health) {
        publish(&self.health, health);
    }
}

/// The connection that is there, or a new one.
async fn open(connection: Option<Connection>, url: &Url) -> Result<Connection, String> {
    match connection {
        Some(connection) => Ok(connection),
        None => store::connect(url).await.map_err(|error| error.to_string()),
    }
}

/// Tells of a change, and logs it once.
fn publish(publisher: &watch::Sender<Health>, health: Health) {
    publisher.send_if_modified(|known| {
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
