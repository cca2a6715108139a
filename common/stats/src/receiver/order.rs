//! What connections ask the writer for.

use std::sync::Arc;

use stats_events::{Hello, Numbered};
use tokio::sync::{mpsc, oneshot, watch};

use crate::state::{Refusal, Session};

/// One order of a connection.
pub(super) enum Order {
    /// Lets a sender in. The answer comes when all that is known of it is stored.
    Hello {
        hello: Box<Hello>,
        answer: oneshot::Sender<Result<Arc<Peer>, Refusal>>,
    },
    /// What one read of a connection brought.
    Events(Arc<Peer>, Vec<Numbered>),
    /// It has nothing to tell.
    Heartbeat(Arc<Peer>),
    /// Its connection has ended.
    Gone(Arc<Peer>),
}

/// A sender that was let in, on one of its connections.
pub(super) struct Peer {
    pub(super) session: Session,
    pub(super) progress: watch::Sender<Progress>,
}

/// How far the writer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Everything up to this number is stored.
    Stored(u64),
    /// Another connection or instance has taken the sender's place.
    Replaced,
}

impl Peer {
    pub(super) fn new(session: Session) -> Arc<Self> {
        let progress = watch::Sender::new(Progress::Stored(session.last_sequence));
        Arc::new(Self { session, progress })
    }

    pub(super) fn stored(&self, sequence: u64) {
        self.progress.send_if_modified(|progress| match progress {
            Progress::Stored(known) if *known < sequence => {
                *known = sequence;
                true
            }
            _ => false,
        });
    }

    pub(super) fn replaced(&self) {
        self.progress.send_replace(Progress::Replaced);
    }
}

pub(super) fn queue(orders: usize) -> (mpsc::Sender<Order>, mpsc::Receiver<Order>) {
    mpsc::channel(orders)
}
