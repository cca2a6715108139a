//! One upstream connection as one miner's task has it: requests that wait for room in its queue, and mail from it.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, timeout_at};

use crate::session::Request;
use crate::upstream::{Account, Letters, Link, Mailbox, Outgoing, Place};

/// A living upstream connection, this miner's mail from it and its requests to it.
pub(super) struct Attached {
    pub(super) link: Link,
    mailbox: Arc<Mailbox>,
    /// Requests that the queue did not take yet: what one line causes, at most.
    outbox: VecDeque<Waiting>,
}

enum Waiting {
    /// The session asked for it.
    Asked(Request),
    /// A channel that nobody wants any more is to be closed.
    Abandoned(u32),
}

impl Attached {
    pub(super) fn new(link: Link) -> Self {
        Self {
            mailbox: Arc::new(link.mailbox()),
            link,
            outbox: VecDeque::new(),
        }
    }

    /// The miner's shares that are on their way over the connection.
    pub(super) fn account(&self) -> &Account {
        self.mailbox.account()
    }

    /// Whether everything that was asked has been handed over.
    pub(super) fn is_sent(&self) -> bool {
        self.outbox.is_empty()
    }

    /// The connection has ended, or is about to.
    pub(super) fn has_ended(&self) -> bool {
        self.link.queue.is_closed()
    }

    /// Mail that has come.
    pub(super) fn take(&self) -> Letters {
        self.mailbox.take()
    }

    /// Mail that has come; a channel that opens from now on is nobody's.
    pub(super) fn take_last(&self) -> Letters {
        self.mailbox.leave()
    }

    /// Whether each answer to a share is worth to be woken.
    pub(super) fn await_answers(&self, awaits_answers: bool) {
        self.mailbox.await_answers(awaits_answers);
    }

    /// Hands over as many requests as the queue takes.
    pub(super) fn send(&mut self, requests: impl Iterator<Item = Request>) {
        self.outbox.extend(requests.map(Waiting::Asked));
        while !self.outbox.is_empty() {
            match self.link.queue.clone().try_reserve_owned() {
                Ok(place) => self.fill(place),
                Err(TrySendError::Full(_)) => return,
                // The end of the connection is about to be told.
                Err(TrySendError::Closed(_)) => self.outbox.clear(),
            }
        }
        // Empty as a rule, so that it need not be kept.
        self.outbox = VecDeque::new();
    }

    /// Waits for mail or for room, or, where the miner waits because of others' shares, until these are few. Mail waits while
    /// the miner has not taken what was written before: in the mailbox it coalesces.
    pub(super) async fn wait(&mut self, mail: bool, crowded: bool) {
        let waiting = !self.outbox.is_empty();
        let place = tokio::select! {
            () = self.mailbox.arrived(), if mail => None,
            // On the heap, since it is rarely needed.
            place = async { Box::pin(self.link.queue.clone().reserve_owned()).await }, if waiting => place.ok(),
            () = async { Box::pin(self.account().others_are_few()).await }, if crowded => None,
            else => std::future::pending().await,
        };
        // A place that was waited for is used at once: given back, it would go to the next who waits, and with many
        // waiting nobody would ever send.
        if let Some(place) = place {
            self.fill(place);
        }
    }

    fn fill(&mut self, place: OwnedPermit<Outgoing>) {
        let Some(outgoing) = self.next_outgoing() else {
            return;
        };
        let is_urgent = outgoing.request.is_urgent();
        place.send(outgoing);
        if is_urgent {
            self.link.hurry();
        }
    }

    /// As [`Attached::wait`], and for the end of the connection.
    pub(super) async fn wait_or_end(&mut self, mail: bool) {
        let queue = self.link.queue.clone();
        tokio::select! {
            () = queue.closed() => {}
            () = self.wait(mail, false) => {}
        }
    }

    /// Requests for channels that were not handed over are not needed any more.
    pub(super) fn open_nothing(&mut self) {
        self.outbox
            .retain(|waiting| !matches!(waiting, Waiting::Asked(Request::Open(_))));
    }

    /// Hands over the rest however long the queue stays full, until `deadline`. Channels are closed even later: the upstream
    /// would feed them for ever.
    pub(super) async fn send_all(&mut self, deadline: Instant) {
        while let Some(outgoing) = self.next_outgoing() {
            let closes = match outgoing.request {
                Request::Close { channel_id } => Some(channel_id),
                _ => None,
            };
            let sending = timeout_at(deadline, self.link.queue.send(outgoing)).await;
            if let (Err(_), Some(channel_id)) = (sending, closes) {
                self.link.close_later(channel_id);
            }
        }
    }

    /// Nothing is wanted of it any more. What is open, or is `channel`, is closed as soon as there is room.
    pub(super) fn part(mut self, channel: Option<u32>) {
        self.open_nothing();
        self.abandon();
        self.outbox.extend(channel.map(Waiting::Abandoned));
        while let Some(outgoing) = self.next_outgoing() {
            // Shares that were not sent have been counted as lost.
            if let Request::Close { channel_id } = outgoing.request {
                self.link.close_later(channel_id);
            }
        }
    }

    /// The miner has gone: its mailbox is of no use, whatever the session knew of it.
    pub(super) fn abandon(&mut self) {
        self.outbox
            .extend(abandon(&self.mailbox).map(Waiting::Abandoned));
    }

    /// The next request that has to be sent, ready for the queue.
    fn next_outgoing(&mut self) -> Option<Outgoing> {
        while let Some(waiting) = self.outbox.pop_front() {
            let sendable = match waiting {
                Waiting::Asked(request) => self.sendable(request),
                Waiting::Abandoned(channel_id) => Some((0, Request::Close { channel_id })),
            };
            if let Some((request_id, request)) = sendable {
                if let Request::Submit(share) = &request {
                    self.account().sent(share.sequence_number);
                }
                let shared = self.mailbox.membership().is_some();
                return Some(Outgoing {
                    request_id,
                    request,
                    mailbox: shared.then(|| Arc::clone(&self.mailbox)),
                });
            }
        }
        None
    }

    /// What the upstream is to be sent, and with which number. Where the channel is shared, most requests are not for it.
    fn sendable(&mut self, request: Request) -> Option<(u32, Request)> {
        let request = match (request, self.mailbox.membership()) {
            (Request::Open(open), _) => {
                let Place {
                    mailbox,
                    request_id,
                } = self.link.place(&open);
                // What is left from the channel before must not be taken for the new one's.
                self.abandon();
                self.mailbox = mailbox;
                return request_id.map(|id| (id, Request::Open(open)));
            }
            (Request::Update { hashrate, .. }, Some(membership)) => {
                membership.set_hashrate(hashrate);
                return None;
            }
            (Request::Close { .. }, Some(membership)) => Request::Close {
                channel_id: membership.leave()?,
            },
            (request, _) => request,
        };
        Some((0, request))
    }
}

/// Takes leave of a mailbox. Gives the channel that is to be closed for it.
fn abandon(mailbox: &Mailbox) -> Option<u32> {
    let last = mailbox.leave();
    match mailbox.membership() {
        Some(membership) => membership.leave(),
        None => last.opened(),
    }
}

#[cfg(test)]
mod tests {
    use stratum_v1::ExtranonceBytes;

    use super::*;
    use crate::session::ShareSubmission;
    use crate::upstream::Wire;

    fn share(solves_block: bool) -> Request {
        Request::Submit(ShareSubmission {
            channel_id: 1,
            sequence_number: 1,
            job_id: 1,
            nonce: 0,
            ntime: 0,
            version: 0,
            extranonce: ExtranonceBytes::default(),
            worker: None,
            solves_block,
        })
    }

    #[tokio::test]
    async fn a_share_that_solves_a_block_is_written_at_once_and_others_gather() {
        let (mut wire, link) = Wire::new(1, 1, false, &Arc::default());
        let mut attached = Attached::new(link);
        attached.send([share(false)].into_iter());
        assert!(!wire.is_hurried());
        // It may also have waited for room.
        attached.send([share(true)].into_iter());
        assert!(!attached.is_sent() && !wire.is_hurried());
        wire.hear(1, |_, _| {});
        attached.wait(true, false).await;
        assert!(attached.is_sent() && wire.is_hurried());
        wire.hear(1, |_, _| {});
        attached.send([share(true)].into_iter());
        assert!(wire.is_hurried());
    }
}
