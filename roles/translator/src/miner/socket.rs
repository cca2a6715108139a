//! The side of the miner: reads its lines, writes what it is told, and sleeps in between.

use std::pin::pin;
use std::time::{Duration, Instant};

use service::pace::Pace;
use stratum_v1::{Line, LineBuffer};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::moderation::Moderation;
use super::transport::{READ, Transport};
use super::{Driver, End, now};
use crate::session::EndReason;
use crate::tls::Door;

/// Lines after which others have their turn, before this miner is read again.
const LONG_TURN: u32 = 16;

/// The side of the miner.
pub(crate) struct Socket {
    pub(super) stream: TcpStream,
    transport: Transport,
    lines: LineBuffer,
    /// Lines that were read and not handled yet may be held.
    backlog: bool,
    /// When the miner must have taken what is unwritten.
    write_deadline: Option<Instant>,
    write_timeout: Duration,
    pace: Pace,
    /// The miner sent too many lines; none is read until the pace allows it.
    throttled: bool,
    /// The last read brought so many lines that others should have their turn.
    long_turn: bool,
    /// When the miner is read.
    moderation: Moderation,
}

enum Wake {
    Socket,
    Driver,
    Deadline,
    Shutdown,
}

impl Socket {
    /// A connection that speaks as it is.
    pub(crate) fn new(stream: TcpStream, write_timeout: Duration, pace: Pace) -> Self {
        Self {
            stream,
            transport: Transport::Plain,
            lines: LineBuffer::default(),
            backlog: false,
            write_deadline: None,
            write_timeout,
            pace,
            throttled: false,
            long_turn: false,
            moderation: Moderation::new(Instant::now()),
        }
    }

    /// Agrees with the miner on TLS, before it is served.
    pub(crate) async fn enter(
        &mut self,
        door: &Door,
        driver: &Driver,
        shutdown: &CancellationToken,
    ) -> Result<(), End> {
        let deadline = driver.session.next_deadline();
        let (tls, early) = tokio::select! {
            tls = timeout_at(deadline.into(), door.handshake(&self.stream)) => match tls {
                Ok(tls) => tls?,
                Err(_) => return Err(End::Session(EndReason::SetupTimeout)),
            },
            () = shutdown.cancelled() => return Err(End::Shutdown),
        };
        self.transport = Transport::Tls(tls);
        // Not taken now, so kept.
        drop(self.lines.lines(&early));
        self.backlog = !early.is_empty();
        Ok(())
    }

    /// Says that nothing more will come, where there are words for it.
    pub(crate) fn close(&mut self) {
        self.transport.close(&self.stream);
    }

    /// Serves the miner until the connection ends.
    pub(crate) async fn serve(&mut self, driver: &mut Driver, shutdown: &CancellationToken) -> End {
        driver.attach();
        // It lives as long as the connection: all timers have one lock.
        let mut alarm = pin!(sleep_until(driver.next_deadline(false).into()));
        let mut stopped = pin!(shutdown.cancelled());
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
            if self.transport.is_closed() && !self.backlog {
                return End::Closed;
            }
            if std::mem::take(&mut self.long_turn) {
                tokio::task::yield_now().await;
            }
            // Others change it at any time. All that follows goes by what it is now, and nothing in between waits.
            let crowded = driver.is_crowded();
            let paused_until = self.paused_until();
            let may_handle = paused_until.is_none() && driver.may_handle_lines(crowded);
            if self.backlog && may_handle {
                self.handle_lines(&[], driver);
                // Others run in between, however much this miner has sent.
                self.long_turn = true;
                continue;
            }
            driver.publish();
            driver.give_buffers_back();
            let writing = self.is_writing(driver);
            // Nothing is read before all that was read is handled: a backlog and a read would be more than the lines' buffer
            // is for, and the end of a connection would be taken for the end of what it said.
            let reading = !writing && may_handle && !self.backlog;
            let interest = if writing {
                Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            let deadline = driver.next_deadline(crowded);
            let deadline = self.write_deadline.unwrap_or(deadline);
            let next_read = self.moderation.next_read().filter(|_| reading);
            let deadline = [paused_until, next_read]
                .into_iter()
                .flatten()
                .fold(deadline, Instant::min);
            // Most deadlines move on with each line. The alarm is left to come too early then, and set anew when it has.
            if alarm.is_elapsed() || deadline < alarm.deadline().into_std() {
                alarm.as_mut().reset(deadline.into());
            }
            let wake = tokio::select! {
                _ = self.stream.ready(interest), if reading || writing => Wake::Socket,
                () = driver.wait(!writing, crowded) => Wake::Driver,
                () = &mut alarm => Wake::Deadline,
                () = &mut stopped => Wake::Shutdown,
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
                Wake::Deadline => {
                    // Another deadline may have come, or none: the alarm may be early.
                    if next_read.is_some_and(|next_read| Instant::now() >= next_read)
                        && let Err(end) = self.read(driver)
                    {
                        return end;
                    }
                    driver.on_deadline();
                }
                Wake::Shutdown => return End::Shutdown,
            }
        }
    }

    fn read(&mut self, driver: &mut Driver) -> Result<(), End> {
        let moderated = self.moderation.next_read().is_some();
        let lines = READ.with_borrow_mut(|buffers| {
            let Some(bytes) = self.transport.read(&self.stream, buffers, moderated)? else {
                return Ok(0);
            };
            driver.asked_at = Instant::now();
            driver.take_answers();
            driver.since_published.from_miner += bytes.len() as u64;
            Ok(self.handle_lines(bytes, driver))
        })?;
        // One that was cut short says nothing of how much has come.
        let lines = if self.backlog { u32::MAX } else { lines };
        let before = self.moderation;
        self.moderation = before.after_read(Instant::now(), lines);
        self.moderation.apply(before, &self.stream);
        Ok(())
    }

    /// Gives the number of lines that were handled.
    fn handle_lines(&mut self, chunk: &[u8], driver: &mut Driver) -> u32 {
        let now = now();
        let mut lines = self.lines.lines(chunk);
        let mut handled = 0_u32;
        self.backlog = false;
        loop {
            if !driver.may_handle_more() {
                self.backlog = true;
                break;
            }
            match lines.next() {
                Some(Line::Whole(line)) => driver.session.handle_line(now, line, &mut driver.out),
                Some(Line::TooLong) => driver.session.handle_oversized_line(now, &mut driver.out),
                None => break,
            }
            handled += 1;
            driver.send_requests();
        }
        drop(lines);
        self.long_turn = handled >= LONG_TURN;
        self.throttled = self.pace.spend(handled, now.instant).is_some();
        driver.since_published.throttled += u64::from(self.throttled);
        handled
    }

    /// Until when a miner that sent too many lines has to wait.
    fn paused_until(&mut self) -> Option<Instant> {
        if !self.throttled {
            return None;
        }
        let resumes_at = self.pace.resumes_at(Instant::now());
        self.throttled = resumes_at.is_some();
        resumes_at
    }

    /// Whether something has not been taken by the socket.
    pub(super) fn is_writing(&self, driver: &Driver) -> bool {
        !driver.is_written() || self.transport.has_unsent()
    }

    pub(super) fn write(&mut self, driver: &mut Driver) -> Result<(), End> {
        while self.is_writing(driver) {
            let bytes = &driver.out.bytes[driver.written..];
            let Some(size) = self.transport.write(&self.stream, bytes)? else {
                self.write_deadline
                    .get_or_insert_with(|| Instant::now() + self.write_timeout);
                return Ok(());
            };
            driver.written += size;
            driver.since_published.to_miner += size as u64;
            self.write_deadline = None;
        }
        driver.all_is_written();
        self.write_deadline = None;
        Ok(())
    }
}
