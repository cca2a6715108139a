//! The one task that writes: it takes what has been booked, and commits it once an interval.

use std::{sync::Arc, time::Duration};

use storage::Keeper;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::error;

use crate::{
    StorageConfig,
    batch::{Batch, Names, Waiting},
    block::now_ms,
    booking::{Order, Outlet},
    store::{Committed, Connection, RolledUp, Server},
};

/// Pauses between tries.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often old minutes are looked for, and how soon again where there were some.
const ROLL_UP_INTERVAL: Duration = Duration::from_secs(10);
const ROLL_UP_NEXT: Duration = Duration::from_millis(200);

pub(crate) struct Writer {
    database: Keeper<Connection>,
    server: Server,
    orders: Outlet,
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
        database: Keeper<Connection>,
        server: Server,
        orders: Outlet,
    ) -> Self {
        let now = Instant::now();
        Self {
            database,
            server,
            orders,
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
        self.database.taken_over();
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
                .database
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
            .database
            .attempt(async |connection| connection.roll_up(server, before).await)
            .await;
        let pause = match rolled_up {
            Some(RolledUp::Minute) => ROLL_UP_NEXT,
            _ => ROLL_UP_INTERVAL,
        };
        self.next_roll_up = Instant::now() + pause;
        rolled_up.unwrap_or(RolledUp::Nothing)
    }
}
