//! A place for a connection to the pool that is followed.

use tokio::sync::watch;
use tokio::task::Id;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Link, Upstream};

/// A place for a connection; miners are spread over them.
pub(super) struct Slot {
    pub(super) links: watch::Sender<Option<Link>>,
    pub(super) own: Option<Own>,
    pub(super) dialling: Option<Id>,
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
