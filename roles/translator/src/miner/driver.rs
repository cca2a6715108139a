//! The session, its upstream, and what is on the way between them.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout_at;

use super::attached::Attached;
use super::{ENOUGH_OUTPUT, End, now};
use crate::session::{ChannelEvent, Left, Output, Request, Session};
use crate::status::{Miner, Traffic};
use crate::upstream::Link;

/// At shutdown the answers to last shares are waited for no longer than this.
const SHUTDOWN_LINGER: Duration = Duration::from_secs(3);

/// A pool that answers none of the most shares that may be in flight for so long is worth a line in the log.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// A miner that has to wait because of others' shares, and hears of none of its own for so long, goes on: pools may answer in
/// batches that it has yet to fill.
const CROWD_PATIENCE: Duration = Duration::from_secs(1);

thread_local! {
    // What a session writes goes through a buffer of the worker thread too, unless the socket does not take it at once.
    static SPARE_OUTPUT: RefCell<Output> = RefCell::default();
}

/// The session, its upstream, and what is on the way between them.
pub(crate) struct Driver {
    pub(super) session: Session,
    status: Arc<Miner>,
    upstream: watch::Receiver<Option<Link>>,
    present: Option<Attached>,
    /// The connection that the miner is moved away from. Boxed: it is rarely there.
    leaving: Option<Box<Attached>>,
    pub(super) out: Output,
    /// How much of `out.bytes` the socket has taken.
    pub(super) written: usize,
    /// When the lines were read that are handled at once.
    pub(super) asked_at: Instant,
    pub(super) since_published: Traffic,
    /// Since when the miner waits, if it does.
    waits: Option<Waits>,
}

/// What a miner waits for that is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// Answers: it has as many shares in flight as it may.
    Full,
    /// Answers to its own shares or others': together they have too many.
    Crowd,
}

/// A miner waits.
#[derive(Debug, Clone, Copy)]
struct Waits {
    what: Wait,
    /// With another, it has waited for nothing else than a pool that answers.
    latest_answer: u32,
    since: Instant,
}

impl Waits {
    fn until(&self) -> Instant {
        let patience = match self.what {
            Wait::Full => ANSWER_PATIENCE,
            Wait::Crowd => CROWD_PATIENCE,
        };
        self.since + patience
    }
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
            present: None,
            leaving: None,
            out: Output::default(),
            written: 0,
            asked_at: Instant::now(),
            since_published: Traffic::default(),
            waits: None,
        }
    }

    /// When there is something to do although nothing comes.
    pub(super) fn next_deadline(&mut self, crowded: bool) -> Instant {
        let deadline = self.session.next_deadline();
        let what = if !self.session.wants_lines() {
            Wait::Full
        } else if crowded {
            Wait::Crowd
        } else {
            self.waits = None;
            return deadline;
        };
        let latest_answer = self.latest_answer();
        let same = |waits: &Waits| (waits.what, waits.latest_answer) == (what, latest_answer);
        let waits = self.waits.filter(same).unwrap_or_else(|| Waits {
            what,
            latest_answer,
            since: now().instant,
        });
        self.waits = Some(waits);
        deadline.min(waits.until())
    }

    /// The time of [`Driver::next_deadline`] has come, or may have.
    pub(super) fn on_deadline(&mut self) {
        let now = now();
        if now.instant >= self.session.next_deadline() {
            self.session.on_deadline(now, &mut self.out);
        }
        let latest_answer = self.latest_answer();
        let is_over = |waits: &mut Waits| {
            now.instant >= waits.until() && waits.latest_answer == latest_answer
        };
        let (Some(waits), Some(present)) = (self.waits.take_if(is_over), &self.present) else {
            return;
        };
        match waits.what {
            Wait::Full => {
                let shares = self.session.in_flight();
                present.link.say_that_answers_are_missing(shares);
            }
            Wait::Crowd => present.account().widen(),
        }
    }

    /// The latest of the miner's shares that was answered.
    fn latest_answer(&self) -> u32 {
        let present = self.present.as_ref();
        present.map_or(0, |present| present.account().latest_answer())
    }

    /// Whether the miner has to wait, because its upstream connection has too many shares without an answer. A connection
    /// that it is moved away from is one where nobody arrives: what is on the way there keeps nobody waiting.
    ///
    /// Other tasks change that at any moment: who asks more than once may hear this and that.
    pub(super) fn is_crowded(&self) -> bool {
        let present = self.present.as_ref();
        present.is_some_and(|present| present.account().has_to_wait())
    }

    pub(super) fn is_written(&self) -> bool {
        self.out.bytes.len() == self.written
    }

    /// The socket has taken all that was said.
    pub(super) fn all_is_written(&mut self) {
        self.out.bytes.clear();
        self.written = 0;
        if !self.out.answered.is_empty() {
            self.status.answered(&mut self.out.answered, self.asked_at);
        }
    }

    /// Whether the miner may be read.
    pub(super) fn may_handle_lines(&self, crowded: bool) -> bool {
        self.is_written() && self.is_ready() && !crowded
    }

    /// Whether another line may be handled of those that were read.
    pub(super) fn may_handle_more(&self) -> bool {
        self.is_ready() && !self.is_crowded()
    }

    fn is_ready(&self) -> bool {
        self.is_sent()
            && self.out.end.is_none()
            && self.out.bytes.len() < ENOUGH_OUTPUT
            && self.session.wants_lines()
    }

    /// Waits until an upstream has something to say or can take more, or there is another. Accepted shares are nothing to
    /// say, unless the miner waits for them.
    pub(super) async fn wait(&mut self, mail: bool, crowded: bool) {
        let awaits_answers = self.session.awaits_answers() || crowded;
        if let Some(present) = &self.present {
            present.await_answers(awaits_answers);
        }
        let (present, leaving) = (&mut self.present, &mut self.leaving);
        tokio::select! {
            changed = self.upstream.changed() => if changed.is_err() {
                // The supervisor has stopped: there will be no other.
                std::future::pending::<()>().await;
            },
            () = async {
                match present {
                    Some(attached) => attached.wait(mail, crowded).await,
                    None => std::future::pending().await,
                }
            } => {}
            () = async {
                match leaving {
                    // On the heap, since few connections ever need it.
                    Some(attached) => Box::pin(attached.wait_or_end(mail)).await,
                    None => std::future::pending().await,
                }
            } => {}
        }
    }

    /// Hands the session what has come, and what has become of its upstreams.
    pub(super) fn handle_mail(&mut self) {
        self.handle_leaving_mail();
        // Looked up before the mail is taken: what a connection had to say before it ended is in the mail then.
        let newest = self.newest_if_other();
        self.take_mail();
        let Some(newest) = newest else { return };
        let now = now();
        match (self.present.take(), newest) {
            // Another connection was made while this one goes on.
            (Some(left), Some(link)) if !left.has_ended() => self.move_to(link, left),
            (ended, newest) => {
                if ended.is_some() {
                    // What was asked of it is not for another.
                    self.out.requests.clear();
                    self.session
                        .on_channel_event(now, ChannelEvent::UpstreamDown, &mut self.out);
                }
                self.attach_to(newest);
            }
        }
    }

    /// Takes answers to shares that nobody was woken for, when the miner's task runs anyway.
    pub(super) fn take_answers(&mut self) {
        if self.session.in_flight() > 0 {
            self.take_mail();
        }
    }

    fn take_mail(&mut self) {
        if let Some(present) = &self.present {
            let now = now();
            for event in present.take().into_events() {
                self.session.on_channel_event(now, event, &mut self.out);
            }
        }
    }

    /// Takes up the upstream connection that there is, if any.
    pub(super) fn attach(&mut self) {
        let newest = self.upstream.borrow_and_update().clone();
        self.attach_to(newest);
    }

    fn attach_to(&mut self, link: Option<Link>) {
        if let Some(link) = link {
            self.present = Some(Attached::new(link));
            self.session
                .on_channel_event(now(), ChannelEvent::UpstreamUp, &mut self.out);
        }
    }

    /// The connection that there is, or that there is none, if that is not the present one.
    fn newest_if_other(&mut self) -> Option<Option<Link>> {
        let newest = self.upstream.borrow_and_update();
        let present = self.present.as_ref().map(|attached| attached.link.id);
        let is_other = newest.as_ref().map(|link| link.id) != present;
        is_other.then(|| newest.clone())
    }

    /// Takes up another connection, and keeps the one that is left until the miner's shares on it are answered.
    fn move_to(&mut self, link: Link, mut left: Attached) {
        left.open_nothing();
        left.await_answers(true);
        left.send(self.out.requests.drain(..));
        let fate = self.session.move_upstream(now(), &mut self.out);
        // If the one before was not done yet, it is now.
        self.send_farewells();
        match fate {
            Left::InUse => {
                if let Some(before) = self.leaving.replace(Box::new(left)) {
                    before.part(None);
                }
            }
            Left::Done(channel) => left.part(channel),
        }
        self.present = Some(Attached::new(link));
    }

    fn handle_leaving_mail(&mut self) {
        let Some(leaving) = &self.leaving else { return };
        let now = now();
        let ended = leaving.has_ended();
        for event in leaving.take().into_events() {
            self.session.on_leaving_event(now, event, &mut self.out);
        }
        if ended {
            self.session
                .on_leaving_event(now, ChannelEvent::UpstreamDown, &mut self.out);
        }
    }

    /// Hands over what the session asked for, as far as the upstreams' queues take it.
    pub(super) fn send_requests(&mut self) {
        if !self.out.requests.is_empty() || self.present.as_ref().is_some_and(|to| !to.is_sent()) {
            match &mut self.present {
                Some(present) => present.send(self.out.requests.drain(..)),
                // Without an upstream there is no channel, and what was asked of the last one has gone with it.
                None => self.out.requests.clear(),
            }
        }
        if self.leaving.is_some() {
            self.send_farewells();
        }
    }

    fn send_farewells(&mut self) {
        let Some(leaving) = &mut self.leaving else {
            return self.out.farewells.clear();
        };
        leaving.send(self.out.farewells.drain(..));
        if !leaving.is_sent() && !self.session.works_on_left_channel() {
            self.session.left_connection_is_stuck();
        }
        if !self.session.is_leaving()
            && let Some(left) = self.leaving.take()
        {
            left.part(None);
        }
    }

    /// Whether the upstreams' queues have taken all that the miner's work depends on.
    fn is_sent(&self) -> bool {
        let present = self.present.as_ref().is_none_or(Attached::is_sent);
        let leaving = || self.leaving.as_ref().is_none_or(|to| to.is_sent());
        present && (!self.session.works_on_left_channel() || leaving())
    }

    pub(super) fn publish(&mut self) {
        let user_agent = self.session.take_user_agent();
        let (session, now) = (&self.session, now());
        let traffic = std::mem::take(&mut self.since_published);
        self.status.publish(|status| {
            status.traffic.add(&traffic, session.notifications());
            if status.tally != *session.tally() {
                status.tally.clone_from(session.tally());
            }
            if status.worker.is_none() {
                status.worker = session.worker().map(Into::into);
            }
            if user_agent.is_some() {
                status.user_agent = user_agent;
            }
            status.difficulty = session.difficulty().map(work::Difficulty::value);
            status.hashrate = session.hashrate(now).value();
        });
    }

    /// While it waits, a connection owns no buffer, unless there is something in it.
    pub(super) fn give_buffers_back(&mut self) {
        if self.out.is_empty() {
            let mut spare = std::mem::take(&mut self.out);
            spare.answered.clear();
            if spare.bytes.capacity() <= 2 * ENOUGH_OUTPUT {
                SPARE_OUTPUT.set(spare);
            }
        }
    }

    pub(super) fn borrow_buffers(&mut self) {
        if self.out.bytes.capacity() == 0 && self.out.is_empty() {
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
        // On the heap, so that those who are here do not make room for it.
        Box::pin(self.take_leave(deadline)).await;
    }

    async fn take_leave(&mut self, deadline: tokio::time::Instant) {
        if let Some(present) = &mut self.present {
            present.open_nothing();
        }
        self.session.miner_has_left();
        self.send_requests();
        while self.session.in_flight() > 0 {
            self.out.bytes.clear();
            self.publish();
            if timeout_at(deadline, self.wait(true, false)).await.is_err() {
                break;
            }
            self.handle_mail();
            self.ask_for_nothing();
            self.send_requests();
        }
        self.ask_for_nothing();
        self.take_last_mail();
        self.session.abandon(&mut self.out);
        self.send_requests();
        // Where a queue is full, the channel must be closed all the same, or the upstream would feed it for ever.
        if let Some(present) = &mut self.present {
            present.abandon();
            present.send_all(deadline).await;
        }
        if let Some(leaving) = &mut self.leaving {
            leaving.abandon();
            leaving.send_all(deadline).await;
        }
        self.publish();
    }

    /// The miner is gone, so that nothing is to be asked but to close what is open.
    fn ask_for_nothing(&mut self) {
        for requests in [&mut self.out.requests, &mut self.out.farewells] {
            requests.retain(|request| matches!(request, Request::Close { .. }));
        }
    }

    fn take_last_mail(&mut self) {
        let now = now();
        if let Some(present) = &self.present {
            for event in present.take_last().into_events() {
                self.session.on_channel_event(now, event, &mut self.out);
            }
        }
        if let Some(leaving) = &self.leaving {
            for event in leaving.take_last().into_events() {
                self.session.on_leaving_event(now, event, &mut self.out);
            }
        }
    }
}
