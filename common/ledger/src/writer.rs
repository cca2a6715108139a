//! The one task that writes: it takes what has been booked, commits it once an interval, and folds it some seconds later.

use std::{sync::Arc, time::Duration};

use storage::Keeper;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::error;

use crate::{
    Delays, StorageConfig,
    batch::{Batch, Names, Waiting},
    block::now_ms,
    booking::{Order, Outlet},
    fold::Folding,
    store::{Committed, Connection, Folded, RolledUp, Server},
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
    delays: watch::Sender<Delays>,
    interval: Duration,
    minutes_kept: i64,
    names: Names,
    last_batch: i64,
    next_commit: Instant,
    next_roll_up: Instant,
    folding: Folding,
}

/// A later start of the same server writes.
struct TakenOver;

impl Writer {
    pub(crate) fn new(
        config: &StorageConfig,
        database: Keeper<Connection>,
        server: Server,
        orders: Outlet,
        delays: watch::Sender<Delays>,
    ) -> Self {
        let now = Instant::now();
        Self {
            database,
            server,
            orders,
            delays,
            interval: config.commit_interval(),
            minutes_kept: i64::from(config.minutes_kept_hours) * 60,
            names: Names::new(config.workers_per_account),
            last_batch: 0,
            next_commit: now,
            next_roll_up: now + ROLL_UP_INTERVAL,
            folding: Folding::new(now),
        }
    }

    /// Runs until nobody can book any more and all is committed, or until another process has taken over.
    pub(crate) async fn run(mut self) {
        if let Err(TakenOver) = self.write().await {
            error!(
                server_id = self.server.id,
                "another process with this server_id writes to the ledger; this one stops"
            );
            self.database.taken_over();
        }
    }

    async fn write(&mut self) -> Result<(), TakenOver> {
        loop {
            let (fold_at, roll_up_at) = (self.folding.at(), self.next_roll_up);
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(order) => self.commit(order).await?,
                    None => break,
                },
                () = sleep_until(roll_up_at) => self.roll_up().await?,
                () = sleep_until(fold_at.unwrap_or(roll_up_at)), if fold_at.is_some() => {}
            }
            // Right after a commit there is most time until the next one.
            if self.folding.at().is_some_and(|at| at <= Instant::now()) {
                self.fold().await?;
            }
        }
        // What is not folded here, the next start folds.
        while self.folding.at().is_some() && self.fold().await? {}
        Ok(())
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
        while !batch.is_full()
            && let Ok(order) = self.orders.try_recv()
        {
            batch.add(order, &mut self.names, &mut waiting);
        }
        batch.work.seal();
        (batch, waiting)
    }

    /// Commits what there is at the time of the next commit. It tries until the batch is in, the same batch each time, or
    /// until it never will be.
    async fn commit(&mut self, first: Order) -> Result<(), TakenOver> {
        sleep_until(self.next_commit).await;
        let (batch, waiting) = self.gather(first);
        let now = Instant::now();
        self.next_commit = if batch.is_full() {
            now
        } else {
            self.after(now)
        };
        let (server, batch) = (self.server, Arc::new(batch));
        let mut pause = FIRST_PAUSE;
        loop {
            let committed = self
                .database
                .attempt(async |connection| connection.commit(server, Arc::clone(&batch)).await)
                .await;
            match committed {
                Some(Committed::Yes) => break,
                Some(Committed::TakenOver) => return Err(TakenOver),
                None => sleep(pause).await,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.note_delays(&waiting);
        waiting.committed();
        let bytes = batch.work.as_bytes().len();
        self.folding.committed(bytes, Instant::now());
        Ok(())
    }

    /// One writer notes those of all connections, and shares a lock with nobody but who reads them.
    fn note_delays(&self, waiting: &Waiting) {
        self.delays.send_modify(|delays| {
            for (delay, shares) in waiting.waited() {
                let shares = u32::try_from(shares).unwrap_or(u32::MAX);
                delays.observe_many(delay.as_secs_f64(), shares);
            }
        });
    }

    /// Folds the oldest batches of the journal; whether it is worth while to go on at once.
    async fn fold(&mut self) -> Result<bool, TakenOver> {
        let (server, after) = (self.server, self.folding.after());
        let folded = self
            .database
            .aside(async |connection| connection.fold(server, after).await)
            .await;
        match &folded {
            Some(Folded::TakenOver) => return Err(TakenOver),
            Some(Folded::Unreadable(unreadable)) => {
                error!(
                    %unreadable,
                    "work stays in the ledger's journal, where nobody is credited with it; it is tried again at the next start"
                );
            }
            Some(Folded::Nothing | Folded::UpTo { .. }) | None => {}
        }
        Ok(self.folding.folded(folded, Instant::now()))
    }

    /// Moves the oldest minute that is no longer kept into its hour. Where no shares come, this also finds out whether
    /// the database can be written.
    async fn roll_up(&mut self) -> Result<(), TakenOver> {
        self.next_roll_up = Instant::now() + ROLL_UP_INTERVAL;
        let server = self.server;
        let is_last = self
            .database
            .attempt(async |connection| connection.is_last_start(server).await)
            .await;
        match is_last {
            Some(true) => {}
            Some(false) => return Err(TakenOver),
            None => return Ok(()),
        }
        let before = now_ms() / 60_000 - self.minutes_kept;
        let rolled_up = self
            .database
            .aside(async |connection| connection.roll_up(server, before).await)
            .await;
        let pause = match rolled_up {
            Some(RolledUp::TakenOver) => return Err(TakenOver),
            Some(RolledUp::Minute) => ROLL_UP_NEXT,
            Some(RolledUp::Nothing) | None => ROLL_UP_INTERVAL,
        };
        self.next_roll_up = Instant::now() + pause;
        Ok(())
    }
}
