//! The side of the miner: reads its lines, writes what it is told, and sleeps in between.

use std::cell::RefCell;
use std::io;
use std::time::{Duration, Instant};

use stratum_v1::{Line, LineBuffer};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::{Driver, End, now};

/// Bytes read at once, into a buffer of the worker thread.
const READ_SIZE: usize = 16 * 1024;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
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
