//! The task that keeps the books: it reads the counts once an interval and at each full hour, and commits what is new.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use storage::{Connection, Keeper};
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

use super::clock::{Clock, HOUR_MS};
use super::meter::{Meter, Rows, Usage};
use super::store::{self, Batch, Writing};

/// Pauses between tries.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub(super) struct Writer<F, N> {
    interval: Duration,
    clock: Clock<N>,
    /// Away while a batch is being written.
    database: Option<Keeper<Connection>>,
    writing: Writing,
    totals: F,
    meter: Meter,
    last_batch: i64,
    /// How many rows the database refuses.
    refused: watch::Sender<usize>,
}

type Committing = Pin<Box<dyn Future<Output = (Keeper<Connection>, Arc<Batch>)> + Send>>;

impl<F: Fn() -> BTreeMap<String, Usage>, N: Fn() -> u64> Writer<F, N> {
    pub(super) fn new(
        interval: Duration,
        clock: Clock<N>,
        database: Keeper<Connection>,
        writing: Writing,
        totals: F,
    ) -> Self {
        Self {
            interval,
            meter: Meter::new(clock.hour()),
            clock,
            database: Some(database),
            writing,
            totals,
            last_batch: 0,
            refused: watch::Sender::new(0),
        }
    }

    /// How many rows the database refuses while it takes others.
    pub(super) fn refused(&self) -> watch::Receiver<usize> {
        self.refused.subscribe()
    }

    /// Runs until it is stopped and all is committed that the database takes.
    pub(super) async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut committing: Option<Committing> = None;
        let mut stopping = false;
        loop {
            if committing.is_none() {
                committing = self.begin();
            }
            if stopping && committing.is_none() {
                return self.tell_of_lost();
            }
            tokio::select! {
                () = sleep(self.until_next_look()), if !stopping => self.look(),
                _ = &mut stopped, if !stopping => {
                    stopping = true;
                    self.look();
                }
                (database, batch) = finished(&mut committing) => {
                    committing = None;
                    self.database = Some(database);
                    self.set_aside(batch.refused());
                }
            }
        }
    }

    fn look(&mut self) {
        self.meter.read(self.clock.hour(), (self.totals)());
    }

    /// At full hours a look is due, too, so that what is new belongs to one hour.
    fn until_next_look(&self) -> Duration {
        self.interval.min(self.clock.until_next_hour())
    }

    /// Begins to write what there is.
    fn begin(&mut self) -> Option<Committing> {
        let database = self.database.take()?;
        let Some(rows) = self.meter.take() else {
            self.database = Some(database);
            return None;
        };
        self.last_batch += 1;
        let batch = Arc::new(Batch::new(self.last_batch, rows));
        Some(Box::pin(commit(database, self.writing, batch)))
    }

    /// Keeps what the database refused, and says so when that begins and when it is over.
    fn set_aside(&mut self, refused: Rows) {
        self.meter.set_aside(refused);
        let rows = self.meter.aside().len();
        let before = self.refused.send_replace(rows);
        if before == 0 && rows > 0 {
            let clients: Vec<_> = self
                .meter
                .aside()
                .keys()
                .map(|(_, client)| client)
                .collect();
            tracing::warn!(
                ?clients,
                "the database refuses what these clients used; the others' is written, theirs is offered again"
            );
        } else if before > 0 && rows == 0 {
            tracing::info!("what the database refused is written");
        }
    }

    /// What could not be written until the end stands in the log at least.
    fn tell_of_lost(&self) {
        for ((hour, client), usage) in self.meter.aside() {
            let from_ms = hour.saturating_mul(HOUR_MS.cast_signed());
            tracing::error!(
                from_ms,
                client,
                ?usage,
                "billing: the database has not taken this"
            );
        }
    }
}

/// Never, while nothing is being written.
async fn finished(committing: &mut Option<Committing>) -> (Keeper<Connection>, Arc<Batch>) {
    match committing {
        Some(committing) => committing.await,
        None => std::future::pending().await,
    }
}

/// Tries until the batch is in, the same batch each time.
async fn commit(
    mut database: Keeper<Connection>,
    writing: Writing,
    batch: Arc<Batch>,
) -> (Keeper<Connection>, Arc<Batch>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let committed = database
            .attempt(async |connection| {
                store::commit(connection, writing, Arc::clone(&batch)).await
            })
            .await;
        if committed.is_some() {
            return (database, batch);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
