//! The session, its upstream, and what is on the way between them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::watch;
use tokio::time::timeout_at;

use super::{ENOUGH_OUTPUT, End, now};
use crate::session::{ChannelEvent, Output, Request, Session};
use crate::status::{Miner, Traffic};
use crate::upstream::{Letters, Link, Mailbox, Outgoing};

/// At shutdown the answers to last shares are waited for no longer than this.
const SHUTDOWN_LINGER: Duration = Duration::from_secs(3);

/// A pool that answers none of the most shares that may be in flight for so long is worth a line in the log.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

thread_local! {
    // What a session writes goes through a buffer of the worker thread too, unless the socket does not take it at once.
    static SPARE_OUTPUT: RefCell<Output> = RefCell::default();
}

/// The session, its upstream, and what is on the way between them.
pub(crate) struct Driver {
    pub(super) session: Session,
    status: Arc<Miner>,
    upstream: watch::Receiver<Option<Link>>,
    attached: Option<Attached>,
    /// Requests that the upstream's queue did not take yet: what one line causes, at most.
    outbox: VecDeque<Request>,
    pub(super) out: Output,
    /// How much of `out.bytes` the socket has taken.
    pub(super) written: usize,
    /// When the requests were read whose answers are being written.
    pub(super) asked_at: Option<Instant>,
    pub(super) since_published: Traffic,
    /// Since when the miner waits for the pool's answers to its shares.
    full_since: Option<Instant>,
}

/// A living upstream connection and this miner's mail from it.
struct Attached {
    link: Link,
    mailbox: Arc<Mailbox>,
}

impl Driver {
    pub(crate) fn new(
        session: Session,
        status: Arc<Miner>,
        upstream: watch::Receiver<Option<Link>>,
    ) -> Self {
        Self {
            session,
            status,
            upstream,
            attached: None,
            outbox: VecDeque::new(),
            out: Output::default(),
            written: 0,
            asked_at: None,
            since_published: Traffic::default(),
            full_since: None,
        }
    }

    /// When there is something to do although nothing comes.
    pub(super) fn next_deadline(&mut self) -> Instant {
        let deadline = self.session.next_deadline();
        if self.session.wants_lines() {
            self.full_since = None;
            return deadline;
        }
        let due = *self.full_since.get_or_insert_with(Instant::now) + ANSWER_PATIENCE;
        if Instant::now() < due {
            return deadline.min(due);
        }
        if let Some(Attached { link, .. }) = &self.attached {
            link.say_that_answers_are_missing(self.session.in_flight());
        }
        deadline
    }

    pub(super) fn is_written(&self) -> bool {
        self.out.bytes.len() == self.written
    }

    pub(super) fn may_handle_lines(&self) -> bool {
        self.is_written() && self.may_handle_more()
    }

    pub(super) fn may_handle_more(&self) -> bool {
        self.outbox.is_empty()
            && self.out.end.is_none()
            && self.out.bytes.len() < ENOUGH_OUTPUT
            && self.session.wants_lines()
    }

    /// Waits until the upstream has something to say or can take more. Mail waits while the miner has not taken what was
    /// written before: in the mailbox it coalesces.
    pub(super) async fn wait(&mut self, mail: bool) {
        let waiting = !self.outbox.is_empty();
        let place = match &self.attached {
            Some(Attached { link, mailbox }) => tokio::select! {
                _ = self.upstream.changed() => None,
                () = mailbox.arrived(), if mail => None,
                place = link.queue.clone().reserve_owned(), if waiting => place.ok(),
            },
            // An error says that the supervisor has stopped: nothing comes any more.
            None => {
                if self.upstream.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                None
            }
        };
        // A place that was waited for is used at once: given back, it would go to the next who waits, and with many
        // waiting nobody would ever send.
        if let Some(place) = place
            && let Some(outgoing) = self.next_outgoing()
        {
            place.send(outgoing);
        }
    }

    pub(super) fn handle_mail(&mut self) {
        let Some(attached) = &self.attached else {
            return self.attach();
        };
        let letters = attached.mailbox.take();
        let current = self
            .upstream
            .borrow_and_update()
            .as_ref()
            .map(|link| link.id);
        let same = current == Some(attached.link.id);
        self.deliver(letters);
        if !same {
            self.attached = None;
            // What was asked of the old connection is not for the new one.
            self.outbox.clear();
            self.out.requests.clear();
            self.session
                .on_channel_event(now(), ChannelEvent::UpstreamDown, &mut self.out);
            self.attach();
        }
    }

    fn deliver(&mut self, letters: Letters) {
        let now = now();
        for event in letters.into_events() {
            self.session.on_channel_event(now, event, &mut self.out);
        }
    }

    /// Takes up the upstream connection that there is, if any.
    pub(super) fn attach(&mut self) {
        let Some(link) = self.upstream.borrow_and_update().clone() else {
            return;
        };
        self.attached = Some(Attached {
            link,
            mailbox: Arc::default(),
        });
        self.session
            .on_channel_event(now(), ChannelEvent::UpstreamUp, &mut self.out);
    }

    /// Hands over what the session asked for, as far as the upstream's queue takes it.
    pub(super) fn send_requests(&mut self) {
        if self.out.requests.is_empty() && self.outbox.is_empty() {
            return;
        }
        self.outbox.extend(self.out.requests.drain(..));
        let Some(Attached { link, .. }) = &self.attached else {
            // Without an upstream there is no channel, and what was asked of the last one has gone with it.
            return self.outbox.clear();
        };
        let queue = link.queue.clone();
        while !self.outbox.is_empty() {
            match queue.try_reserve() {
                Ok(place) => {
                    if let Some(outgoing) = self.next_outgoing() {
                        place.send(outgoing);
                    }
                }
                Err(TrySendError::Full(())) => return,
                // The end of the connection is about to be told.
                Err(TrySendError::Closed(())) => return self.outbox.clear(),
            }
        }
    }

    /// The next request, ready for the upstream's queue.
    fn next_outgoing(&mut self) -> Option<Outgoing> {
        let Attached { link, mailbox } = self.attached.as_mut()?;
        let request = self.outbox.pop_front()?;
        let request_id = if let Request::Open(open) = &request {
            // What is left from the channel before must not be taken for the new one's.
            let before = std::mem::take(mailbox).leave();
            if let Some(channel_id) = before.opened() {
                self.outbox.push_back(Request::Close { channel_id });
            }
            link.register(mailbox, open.max_target)
        } else {
            0
        };
        Some(Outgoing {
            request_id,
            request,
        })
    }

    pub(super) fn publish(&mut self) {
        let (session, now) = (&self.session, now());
        let traffic = std::mem::take(&mut self.since_published);
        self.status.publish(|status| {
            status.traffic.add(&traffic, session.notifications());
            if status.tally != *session.tally() {
                status.tally = session.tally().clone();
            }
            if status.worker.is_none() {
                status.worker = session.worker().map(Into::into);
            }
            status.difficulty = session.difficulty().map(work::Difficulty::value);
            status.hashrate = session.hashrate(now).value();
        });
    }

    /// While it waits, a connection owns no buffer, unless there is something in it.
    pub(super) fn give_buffers_back(&mut self) {
        if self.out.bytes.is_empty() && self.out.requests.is_empty() && self.out.end.is_none() {
            let spare = std::mem::take(&mut self.out);
            if spare.bytes.capacity() <= 2 * ENOUGH_OUTPUT {
                SPARE_OUTPUT.set(spare);
            }
        }
        if self.outbox.is_empty() {
            self.outbox = VecDeque::new();
        }
    }

    pub(super) fn borrow_buffers(&mut self) {
        if self.out.bytes.capacity() == 0 && self.out.requests.is_empty() && self.out.end.is_none()
        {
            self.out = SPARE_OUTPUT.take();
        }
    }

    /// The miner is gone. Its last shares may still be answered.
    pub(crate) async fn linger(&mut self, end: End, patience: Duration) {
        let patience = if end == End::Shutdown {
            patience.min(SHUTDOWN_LINGER)
        } else {
            patience
        };
        let deadline = tokio::time::Instant::now() + patience;
        // A channel that was not asked for yet is not needed any more.
        self.outbox
            .retain(|request| !matches!(request, Request::Open(_)));
        self.send_requests();
        while self.session.in_flight() > 0 {
            self.out.bytes.clear();
            self.publish();
            if timeout_at(deadline, self.wait(true)).await.is_err() {
                break;
            }
            self.handle_mail();
            self.keep_only_closing();
            self.send_requests();
        }
        self.keep_only_closing();
        if let Some(Attached { mailbox, .. }) = &self.attached {
            let last = mailbox.leave();
            self.deliver(last);
        }
        self.session.abandon(&mut self.out);
        self.send_requests();
        if !self.outbox.is_empty() {
            // The queue is full. The channel must be closed all the same, or the upstream would feed it for ever.
            let _ = timeout_at(deadline, self.close_channel()).await;
        }
        self.publish();
    }

    /// The miner is gone, so that nothing else is to be asked.
    fn keep_only_closing(&mut self) {
        self.out
            .requests
            .retain(|request| matches!(request, Request::Close { .. }));
    }

    async fn close_channel(&mut self) {
        let Some(Attached { link, .. }) = &self.attached else {
            return;
        };
        while let Some(request) = self.outbox.pop_front() {
            // Fails only if the connection is gone, and the channel with it.
            let _ = link
                .queue
                .send(Outgoing {
                    request_id: 0,
                    request,
                })
                .await;
        }
    }
}
