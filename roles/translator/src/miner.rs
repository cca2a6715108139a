//! One miner's connection: the only code that touches its socket. It drives a [`Session`] and does what that asks.
//!
//! Backpressure: lines are handled only while everything that earlier ones caused has been written or queued, so a miner
//! that does not read, or an upstream that cannot take more, stops the reading, and TCP slows the miner down.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stratum_v1::{Line, LineBuffer};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::session::{ChannelEvent, EndReason, Now, Output, Request, Session};
use crate::status::{Miner, Traffic};
use crate::upstream::{Letters, Link, Mailbox, Outgoing};

/// Bytes read at once, into a buffer of the worker thread.
const READ_SIZE: usize = 16 * 1024;

/// Unwritten bytes at which no further line of a read is handled.
const ENOUGH_OUTPUT: usize = 64 * 1024;

/// At shutdown the answers to last shares are waited for no longer than this.
const SHUTDOWN_LINGER: Duration = Duration::from_secs(3);

/// A pool that answers none of the most shares that may be in flight for so long is worth a line in the log.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    // What a session writes goes through a buffer of the worker thread too, unless the socket does not take it at once.
    static SPARE_OUTPUT: RefCell<Output> = RefCell::default();
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The miner closed it.
    Closed,
    /// The socket failed.
    Failed,
    /// The miner does not read.
    WriteTimeout,
    /// The session wanted it.
    Session(EndReason),
    /// The translator stops.
    Shutdown,
}

impl End {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Failed => "failed",
            Self::WriteTimeout => "write-timeout",
            Self::Session(EndReason::SetupTimeout) => "setup-timeout",
            Self::Session(EndReason::Idle) => "idle",
            Self::Session(EndReason::MalformedLines) => "malformed-lines",
            Self::Session(EndReason::OversizedLine) => "oversized-line",
            Self::Shutdown => "shutdown",
        }
    }
}

/// The side of the miner.
pub(crate) struct Socket {
    stream: TcpStream,
    lines: LineBuffer,
    /// Lines that were read and not handled yet may be held.
    backlog: bool,
    /// When the miner must have taken what is unwritten.
    write_deadline: Option<Instant>,
    write_timeout: Duration,
}

enum Wake {
    Socket,
    Driver,
    Deadline,
    Shutdown,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, write_timeout: Duration) -> Self {
        Self {
            stream,
            lines: LineBuffer::default(),
            backlog: false,
            write_deadline: None,
            write_timeout,
        }
    }

    /// Serves the miner until the connection ends.
    pub(crate) async fn serve(&mut self, driver: &mut Driver, shutdown: &CancellationToken) -> End {
        driver.attach();
        loop {
            driver.send_requests();
            if let Err(end) = self.write(driver) {
                return end;
            }
            if let Some(reason) = driver.out.end
                && driver.is_written()
            {
                return End::Session(reason);
            }
            if self.backlog && driver.may_handle_lines() {
                self.handle_lines(&[], driver);
                // Others run in between, however much this miner has sent.
                tokio::task::yield_now().await;
                continue;
            }
            driver.publish();
            driver.give_buffers_back();
            let reading = driver.may_handle_lines();
            let writing = !driver.is_written();
            let interest = if writing {
                Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            let deadline = self
                .write_deadline
                .unwrap_or_else(|| driver.next_deadline());
            let wake = tokio::select! {
                _ = self.stream.ready(interest), if reading || writing => Wake::Socket,
                () = driver.wait(!writing) => Wake::Driver,
                () = sleep_until(deadline.into()) => Wake::Deadline,
                () = shutdown.cancelled() => Wake::Shutdown,
            };
            driver.borrow_buffers();
            if !reading {
                driver.session.not_listening(now());
            }
            match wake {
                Wake::Socket if reading => {
                    if let Err(end) = self.read(driver) {
                        return end;
                    }
                }
                Wake::Socket => {}
                Wake::Driver => driver.handle_mail(),
                Wake::Deadline
                    if self
                        .write_deadline
                        .is_some_and(|deadline| Instant::now() >= deadline) =>
                {
                    return End::WriteTimeout;
                }
                Wake::Deadline => driver.session.on_deadline(now(), &mut driver.out),
                Wake::Shutdown => return End::Shutdown,
            }
        }
    }

    fn read(&mut self, driver: &mut Driver) -> Result<(), End> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(READ_SIZE, 0);
            match self.stream.try_read(buffer) {
                Ok(0) => Err(End::Closed),
                Ok(size) => {
                    let read_at = Instant::now();
                    driver.since_published.from_miner += size as u64;
                    self.handle_lines(&buffer[..size], driver);
                    if !driver.out.bytes.is_empty() {
                        driver.asked_at.get_or_insert(read_at);
                    }
                    Ok(())
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                Err(_) => Err(End::Failed),
            }
        })
    }

    fn handle_lines(&mut self, chunk: &[u8], driver: &mut Driver) {
        let now = now();
        let mut lines = self.lines.lines(chunk);
        self.backlog = false;
        loop {
            if !driver.may_handle_more() {
                self.backlog = true;
                return;
            }
            match lines.next() {
                Some(Line::Whole(line)) => driver.session.handle_line(now, line, &mut driver.out),
                Some(Line::TooLong) => driver.session.handle_oversized_line(now, &mut driver.out),
                None => return,
            }
            driver.send_requests();
        }
    }

    fn write(&mut self, driver: &mut Driver) -> Result<(), End> {
        while !driver.is_written() {
            match self.stream.try_write(&driver.out.bytes[driver.written..]) {
                Ok(0) => return Err(End::Closed),
                Ok(size) => {
                    driver.written += size;
                    driver.since_published.to_miner += size as u64;
                    self.write_deadline = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.write_deadline
                        .get_or_insert_with(|| Instant::now() + self.write_timeout);
                    return Ok(());
                }
                Err(_) => return Err(End::Failed),
            }
        }
        driver.out.bytes.clear();
        driver.written = 0;
        self.write_deadline = None;
        if !self.backlog
            && let Some(asked_at) = driver.asked_at.take()
        {
            driver.since_published.answered_after = Some(asked_at.elapsed());
        }
        Ok(())
    }
}

/// The session, its upstream, and what is on the way between them.
pub(crate) struct Driver {
    session: Session,
    status: Arc<Miner>,
    upstream: watch::Receiver<Option<Link>>,
    attached: Option<Attached>,
    /// Requests that the upstream's queue did not take yet: what one line causes, at most.
    outbox: VecDeque<Request>,
    out: Output,
    /// How much of `out.bytes` the socket has taken.
    written: usize,
    /// When the requests were read whose answers are being written.
    asked_at: Option<Instant>,
    since_published: Traffic,
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
    fn next_deadline(&mut self) -> Instant {
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

    fn is_written(&self) -> bool {
        self.out.bytes.len() == self.written
    }

    fn may_handle_lines(&self) -> bool {
        self.is_written() && self.may_handle_more()
    }

    fn may_handle_more(&self) -> bool {
        self.outbox.is_empty()
            && self.out.end.is_none()
            && self.out.bytes.len() < ENOUGH_OUTPUT
            && self.session.wants_lines()
    }

    /// Waits until the upstream has something to say or can take more. Mail waits while the miner has not taken what was
    /// written before: in the mailbox it coalesces.
    async fn wait(&mut self, mail: bool) {
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

    fn handle_mail(&mut self) {
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
    fn attach(&mut self) {
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
    fn send_requests(&mut self) {
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

    fn publish(&mut self) {
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
    fn give_buffers_back(&mut self) {
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

    fn borrow_buffers(&mut self) {
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

fn now() -> Now {
    Now {
        instant: Instant::now(),
    }
}
