//! The connection of whoever writes: made anew after each failure, and with a word on whether writing is possible.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};
use tracing::{info, warn};

use crate::{Error, Url};

/// After this time an attempt counts as stalled, though it may still succeed.
const SLOW: Duration = Duration::from_secs(2);
/// After this time a connection that gives no answer is given up.
const GIVE_UP: Duration = Duration::from_secs(20);

const NO_ANSWER: &str = "the database gives no answer";

/// A connection that can be made again.
pub trait Database: Sized {
    /// Opens a database that was there before.
    fn reopen(url: &Url) -> impl Future<Output = Result<Self, Error>> + Send;
}

/// Whether what happens now can be made durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Commits succeed.
    Writable,
    /// They do not; it is tried again until they do. Whoever wants to write waits meanwhile.
    Stalled(String),
    /// Another process has taken this one's place. This one must not write any more.
    TakenOver,
}

/// Holds the connection of a writer.
#[derive(Debug)]
pub struct Keeper<C> {
    /// What is kept there, for the log.
    what: &'static str,
    url: Url,
    /// None after a failure; made anew for the next try.
    connection: Option<C>,
    health: watch::Sender<Health>,
}

impl<C: Database> Keeper<C> {
    /// With a connection that is open.
    pub fn new(what: &'static str, url: Url, connection: C) -> Self {
        Self {
            what,
            url,
            connection: Some(connection),
            health: watch::Sender::new(Health::Writable),
        }
    }

    /// Whether attempts succeed; changes are published.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Another process writes; nothing may be attempted any more.
    pub fn taken_over(&self) {
        self.health.send_replace(Health::TakenOver);
    }

    /// The connection that is there, or a new one.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn connection(&mut self) -> Result<&mut C, Error> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => C::reopen(&self.url).await?,
        };
        Ok(self.connection.insert(connection))
    }

    /// Does something with the database, and publishes whether that was possible.
    pub async fn attempt<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut C) -> Result<T, diesel::result::Error>,
    ) -> Option<T> {
        self.run(work)
            .await
            .inspect_err(|problem| self.publish(Health::Stalled(problem.clone())))
            .ok()
    }

    /// Does something that nobody waits for. That it is not possible says nothing of what others do.
    pub async fn aside<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut C) -> Result<T, diesel::result::Error>,
    ) -> Option<T> {
        let what = self.what;
        self.run(work)
            .await
            .inspect_err(|problem| {
                warn!(
                    problem,
                    "{what} could not be tidied up; it is tried again later"
                )
            })
            .ok()
    }

    /// Publishes that it works, or that there is no answer for long.
    async fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut C) -> Result<T, diesel::result::Error>,
    ) -> Result<T, String> {
        // Taken out, so that a connection in an unknown state is not used again.
        let (url, connection) = (&self.url, self.connection.take());
        let attempt = async {
            let mut connection = match connection {
                Some(connection) => connection,
                None => C::reopen(url).await.map_err(|error| error.to_string())?,
            };
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
        let (connection, done) = result?;
        self.connection = Some(connection);
        self.publish(Health::Writable);
        Ok(done)
    }

    /// Tells of a change, and logs it once.
    fn publish(&self, health: Health) {
        let what = self.what;
        self.health.send_if_modified(|known| {
            let was_writable = *known == Health::Writable;
            match &health {
                Health::Writable if !was_writable => info!("{what} is written again"),
                Health::Stalled(problem) if was_writable => {
                    warn!(problem, "{what} cannot be written; it is tried again");
                }
                _ => {}
            }
            let changed = *known != health;
            *known = health;
            changed
        });
    }
}
