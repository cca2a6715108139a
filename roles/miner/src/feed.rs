//! Hands the current work to the hashing threads: only the newest matters, and a thread sees within one batch that there
//! is another.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::job::Work;

/// The current work, shared by a connection's task and the threads. Neither ever holds its lock while it works.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    state: Mutex<State>,
    changed: Condvar,
    /// The state's generation again, for a look that takes no lock.
    generation: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    work: Option<Arc<Work>>,
    generation: u64,
    closed: bool,
}

/// Work and the generation it came with.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    /// What to hash.
    pub(crate) work: Arc<Work>,
    generation: u64,
}

impl Feed {
    /// Replaces the work; none lets the threads rest.
    pub(crate) fn publish(&self, work: Option<Arc<Work>>) {
        let mut state = self.lock();
        state.work = work;
        self.change(&mut state);
    }

    /// Ends all threads.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.work = None;
        self.change(&mut state);
    }

    /// Waits for work other than `seen`; none when the feed is closed.
    pub(crate) fn next(&self, seen: Option<&Current>) -> Option<Current> {
        let seen = seen.map(|seen| seen.generation);
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            match &state.work {
                Some(work) if seen != Some(state.generation) => {
                    return Some(Current {
                        work: work.clone(),
                        generation: state.generation,
                    });
                }
                _ => {}
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether `current` is still what to hash.
    pub(crate) fn is(&self, current: &Current) -> bool {
        self.generation.load(Ordering::Relaxed) == current.generation
    }

    /// Sleeps, but no longer than `current` is what to hash.
    pub(crate) fn wait_while(&self, current: &Current, at_most: Duration) {
        let state = self.lock();
        // What comes of it is for the caller to look at; a poisoned lock changes nothing.
        drop(
            self.changed
                .wait_timeout_while(state, at_most, |state| {
                    state.generation == current.generation
                })
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    fn change(&self, state: &mut State) {
        state.generation += 1;
        self.generation.store(state.generation, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// No code panics with the lock held, so a poisoned one still guards sound state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
