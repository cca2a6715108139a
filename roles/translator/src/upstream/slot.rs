//! A place for a connection to the pool that is followed.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, Id};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Link, Upstream};

/// How long miners wait for their slot's own connection while another could be used: a dial is a matter of a moment, and a
/// move to another connection and back costs each of them two channels.
const DIAL_PATIENCE: Duration = Duration::from_secs(1);

/// A place for a connection; miners are spread over them.
pub(super) struct Slot {
    pub(super) links: watch::Sender<Option<Link>>,
    pub(super) own: Option<Own>,
    pub(super) dialling: Option<Dialling>,
    /// Its miners use another slot's connection.
    pub(super) borrows: bool,
    /// Where the pool sends the connection.
    pub(super) redirect: Option<Redirect>,
    /// Of this slot, in a row.
    pub(super) failures: u32,
    pub(super) retry_at: Instant,
}

/// A connection that runs for a slot.
pub(super) struct Own {
    pub(super) link: Link,
    pub(super) task: Id,
    pub(super) pool: usize,
    /// As configured, or where the pool has sent us.
    pub(super) place: Upstream,
    pub(super) since: Instant,
    /// The pool has asked us to go.
    pub(super) leaving: bool,
    pub(super) hops: u32,
    pub(super) retire: CancellationToken,
}

/// An attempt to connect that is under way for a slot.
pub(super) struct Dialling {
    pub(super) task: AbortHandle,
    pub(super) pool: usize,
    /// The pool has asked for it.
    pub(super) redirected: bool,
    pub(super) since: Instant,
}

pub(super) struct Redirect {
    pub(super) pool: usize,
    pub(super) place: Upstream,
    pub(super) hops: u32,
}

impl Slot {
    pub(super) fn new(links: watch::Sender<Option<Link>>) -> Self {
        Self {
            links,
            own: None,
            dialling: None,
            borrows: false,
            redirect: None,
            failures: 0,
            retry_at: Instant::now(),
        }
    }

    /// The slot's own link to this pool, if it may be used.
    pub(super) fn good(&self, pool: usize) -> Option<&Link> {
        let own = self.own.as_ref()?;
        (own.pool == pool && !own.leaving).then_some(&own.link)
    }

    /// Whether there is a reason to follow this pool: a link to it, or its wish for a new one that is being met.
    pub(super) fn holds(&self, pool: usize) -> bool {
        let asked = self.redirect.as_ref().map(|redirect| redirect.pool);
        let dialled = self
            .dialling
            .as_ref()
            .filter(|dialling| dialling.redirected);
        let dialled = dialled.map(|dialling| dialling.pool);
        self.good(pool).is_some() || asked == Some(pool) || dialled == Some(pool)
    }

    /// Whether its miners do better to wait for its own next connection than to use another slot's.
    pub(super) fn is_worth_waiting_for(&self, now: Instant) -> bool {
        if self.borrows || self.failures > 0 {
            return false;
        }
        // What they have works until there is a better one.
        self.own.is_some() || self.patience_ends().is_some_and(|moment| now < moment)
    }

    /// When its miners have waited for long enough.
    pub(super) fn patience_ends(&self) -> Option<Instant> {
        Some(self.dialling.as_ref()?.since + DIAL_PATIENCE)
    }

    pub(super) fn start_anew(&mut self) {
        self.failures = 0;
        self.retry_at = Instant::now();
    }

    pub(super) fn give_up_dialling(&mut self) {
        if let Some(dialling) = self.dialling.take() {
            dialling.task.abort();
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.dialling.is_none() && self.redirect.is_none()
    }

    pub(super) fn publish(&self, link: Option<&Link>) {
        self.links.send_if_modified(|published| {
            let id = |link: Option<&Link>| link.map(|link| link.id);
            let changed = id(published.as_ref()) != id(link);
            if changed {
                *published = link.cloned();
            }
            changed
        });
    }

    /// From now on the slot's own connection is as good as gone: it ends when the last miner has left it.
    pub(super) fn retire(&mut self) {
        if let Some(own) = self.own.take() {
            own.retire.cancel();
        }
    }
}
