//! The task that keeps the books: it reads the counts once an interval and at each full hour, and commits what is new.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use storage::Keeper;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::meter::{Meter, Usage};
use super::store::{Batch, Committed, Connection, Writing};

/// Pauses between tries.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

const HOUR_MS: u64 = 3_600_000;

pub(super) struct Writer<F> {
    interval: Duration,
    /// Away while a batch is being written.
    database: Option<Keeper<Connection>>,
    writing: Writing,
    totals: F,
    meter: Meter,
    last_batch: i64,
}

type Committing = Pin<Box<dyn Future<Output = (Keeper<Connection>, Committed)> + Send>>;

impl<F: Fn() -> BTreeMap<String, Usage>> Writer<F> {
    pub(super) fn new(
        interval: Duration,
        database: Keeper<Connection>,
        writing: Writing,
        totals: F,
    ) -> Self {
        Self {
            interval,
            database: Some(database),
            writing,
            totals,
            meter: Meter::default(),
            last_batch: 0,
        }
    }

    /// Runs until it is stopped and all is committed, or until another process has taken over.
    pub(super) async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut committing: Option<Committing> = None;
        let mut stopping = false;
        loop {
            if committing.is_none() {
                committing = self.begin();
            }
            if stopping && committing.is_none() {
                return;
            }
            tokio::select! {
                () = sleep(self.until_next_look()), if !stopping => self.look(),
                _ = &mut stopped, if !stopping => {
                    stopping = true;
                    self.look();
                }
                (database, committed) = finished(&mut committing) => {
                    committing = None;
                    if committed == Committed::TakenOver {
                        tracing::error!(
                            relay_id = self.writing.id,
                            "another relay with this storage.relay_id keeps the books; this one's use is not billed any more"
                        );
                        database.taken_over();
                        return;
                    }
                    self.database = Some(database);
                }
            }
        }
    }

    fn look(&mut self) {
        let hour = i64::try_from(now_ms() / HOUR_MS).unwrap_or(i64::MAX);
        self.meter.read(hour, (self.totals)());
    }

    /// At full hours a look is due, too, so that what is new belongs to one hour.
    fn until_next_look(&self) -> Duration {
        let to_hour = HOUR_MS - now_ms() % HOUR_MS;
        self.interval.min(Duration::from_millis(to_hour))
    }

    /// Begins to write what there is.
    fn begin(&mut self) -> Option<Committing> {
        let database = self.database.take()?;
        let Some(rows) = self.meter.take() else {
            self.database = Some(database);
            return None;
        };
        self.last_batch += 1;
        let batch = Batch {
            number: self.last_batch,
            rows,
        };
        Some(Box::pin(commit(database, self.writing, Arc::new(batch))))
    }
}

/// Never, while nothing is being written.
async fn finished(committing: &mut Option<Committing>) -> (Keeper<Connection>, Committed) {
    match committing {
        Some(committing) => committing.await,
        None => std::future::pending().await,
    }
}

/// Tries until the batch is in, the same batch each time, or until it never will be.
async fn commit(
    mut database: Keeper<Connection>,
    writing: Writing,
    batch: Arc<Batch>,
) -> (Keeper<Connection>, Committed) {
    let mut pause = FIRST_PAUSE;
    loop {
        let committed = database
            .attempt(async |connection| connection.commit(writing, Arc::clone(&batch)).await)
            .await;
        if let Some(committed) = committed {
            return (database, committed);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
