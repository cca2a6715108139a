//! The tasks of the roles: stopped one after another, and known by name however they end.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// How long a role may take to finish what it has in hand.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The roles that run.
#[derive(Default)]
pub(super) struct Roles {
    tasks: JoinSet<Result<(), String>>,
    /// In the order in which they stop.
    running: Vec<Running>,
}

struct Running {
    id: Id,
    name: &'static str,
    stop: CancellationToken,
}

impl Roles {
    pub(super) fn spawn<F, E>(
        &mut self,
        name: &'static str,
        run: impl FnOnce(CancellationToken) -> F,
    ) where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        // No child of the process's token: that would stop all of them at the same moment.
        let stop = CancellationToken::new();
        let role = Box::pin(run(stop.clone()));
        let ended = async move { role.await.map_err(|error| error.to_string()) };
        let id = self.tasks.spawn(ended).id();
        self.running.push(Running { id, name, stop });
    }

    /// Waits for a role to end, which none does by itself unless it failed. Cancel-safe.
    pub(super) async fn failure(&mut self) -> Failure {
        match self.ended().await {
            Some((_, Err(failure))) => failure,
            Some((name, Ok(()))) => Failure::running(format!("{name} ended by itself")),
            None => std::future::pending().await,
        }
    }

    /// Stops role after role, each when the one that depends on it is done. Gives the first failure.
    pub(super) async fn stop(&mut self) -> Result<(), Failure> {
        let mut result = Ok(());
        while let Some(Running { id, name, stop }) = self.running.first() {
            let (id, name) = (*id, *name);
            stop.cancel();
            let done = timeout(STOP_TIMEOUT, async {
                while self.running.iter().any(|role| role.id == id) {
                    match self.ended().await {
                        Some((_, ended)) if result.is_ok() => result = ended,
                        Some(_) => {}
                        None => break,
                    }
                }
            });
            if done.await.is_err() {
                tracing::warn!(role = name, "did not stop in time and is left behind");
            }
            self.running.retain(|role| role.id != id);
        }
        result
    }

    /// Which role has ended next, and how; also one that panicked has a name.
    async fn ended(&mut self) -> Option<(&'static str, Result<(), Failure>)> {
        let (id, result) = match self.tasks.join_next_with_id().await? {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(error.to_string())),
        };
        let place = self.running.iter().position(|role| role.id == id);
        let name = place.map_or("a role", |place| self.running.remove(place).name);
        let failed = |error| Failure::running(format!("{name}: {error}"));
        Some((name, result.map_err(failed)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    async fn until(stop: CancellationToken) -> Result<(), String> {
        stop.cancelled().await;
        Ok(())
    }

    async fn panics(stop: CancellationToken) -> Result<(), String> {
        stop.cancelled().await;
        panic!("lost its head")
    }

    #[tokio::test]
    async fn a_role_that_panics_is_named_and_nobody_waits_for_it() {
        let mut roles = Roles::default();
        roles.spawn("miner", until);
        roles.spawn("pool", panics);
        roles.spawn("pool-stats", until);
        roles.running[1].stop.cancel();
        let failure = roles.failure().await.to_string();
        assert!(failure.starts_with("pool: "), "{failure}");
        assert!(failure.contains("lost its head"), "{failure}");
        let start = Instant::now();
        roles.stop().await.unwrap();
        assert!(start.elapsed() < STOP_TIMEOUT);
    }

    #[tokio::test]
    async fn a_panic_while_all_are_stopped_is_the_reason_that_is_given() {
        let mut roles = Roles::default();
        for name in ["miner", "translator"] {
            roles.spawn(name, panics);
        }
        roles.spawn("pool", until);
        let start = Instant::now();
        let failure = roles.stop().await.unwrap_err().to_string();
        assert!(failure.starts_with("miner: "), "{failure}");
        assert!(start.elapsed() < STOP_TIMEOUT);
    }
}
