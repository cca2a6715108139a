//! One connection's task: drives a session, reads and writes its socket, and passes work and shares between it and the
//! threads.

use std::{
    io,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use stratum_v1::{Line, LineBuffer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

use crate::{
    feed::Feed,
    job::Share,
    server::Halves,
    session::{Event, Session, SessionError, Submission},
    status::{Counters, count},
};

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Disconnect {
    /// We are asked to stop.
    #[error("shutting down")]
    Shutdown,
    /// No connection could be made.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The server closed it.
    #[error("the server closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The server says nothing.
    #[error("nothing came from the server for {0:?}")]
    Silent(Duration),
    /// The server owes an answer.
    #[error("the server left a request unanswered for {0:?}")]
    Unanswered(Duration),
    /// The server's line is beyond every job's size.
    #[error("the server sent a line of more than {MAX_LINE} bytes")]
    LineTooLong,
    /// The server and the session do not get along.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The server asks us to come again after so many seconds.
    #[error("the server asks to reconnect after {0} s")]
    Reconnect(u64),
}

/// How long to wait for the server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// For the answer to a request.
    pub(crate) response: Duration,
    /// For anything at all.
    pub(crate) silence: Duration,
}

/// What a connection's task owns and what it shares with the rest of the miner.
pub(crate) struct Connection<'a> {
    session: Session,
    reader: Box<dyn AsyncRead + Send + Unpin>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    lines: LineBuffer,
    /// Lines to be written.
    out: Vec<u8>,
    /// Something written may be held back, as TLS does when the socket is full.
    unflushed: bool,
    timeouts: Timeouts,
    feed: &'a Feed,
    counters: &'a Counters,
}

impl<'a> Connection<'a> {
    /// A connection before its first byte.
    pub(crate) fn new(
        (reader, writer): Halves,
        session: Session,
        timeouts: Timeouts,
        feed: &'a Feed,
        counters: &'a Counters,
    ) -> Self {
        Self {
            session,
            reader,
            writer,
            lines: LineBuffer::new(MAX_LINE),
            out: Vec::new(),
            unflushed: false,
            timeouts,
            feed,
            counters,
        }
    }

    /// Mines until the connection ends, for whatever reason. The threads have no work of it afterwards.
    pub(crate) async fn run(
        mut self,
        shares: &mut mpsc::Receiver<Share>,
        shutdown: &CancellationToken,
    ) -> Disconnect {
        let end = match self.converse(shares, shutdown).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        self.feed.publish(None);
        self.counters.mining.store(false, Relaxed);
        let unanswered = u64::try_from(self.session.unanswered_shares()).unwrap_or(u64::MAX);
        self.counters.unanswered.fetch_add(unanswered, Relaxed);
        end
    }

    async fn converse(
        &mut self,
        shares: &mut mpsc::Receiver<Share>,
        shutdown: &CancellationToken,
    ) -> Result<std::convert::Infallible, Disconnect> {
        let mut input = vec![0; READ_SIZE];
        let mut heard = Instant::now();
        self.session.start(heard, &mut self.out);
        loop {
            let deadline = self.deadline(heard);
            // What cannot be written must not grow: then neither answers are made nor shares taken.
            let room = self.out.len() < OUT_FULL;
            tokio::select! {
                () = shutdown.cancelled() => return Err(Disconnect::Shutdown),
                read = self.reader.read(&mut input), if room => {
                    let read = read?;
                    if read == 0 {
                        return Err(Disconnect::Closed);
                    }
                    heard = Instant::now();
                    self.take(&input[..read], heard)?;
                }
                written = write_or_flush(&mut self.writer, &self.out), if !self.out.is_empty() || self.unflushed => {
                    let written = written?;
                    self.out.drain(..written);
                    self.unflushed = written > 0;
                }
                // The threads keep a sender as long as this runs.
                Some(share) = shares.recv(), if room && self.session.can_submit() => {
                    self.submit(&share);
                    while self.out.len() < OUT_FULL
                        && self.session.can_submit()
                        && let Ok(share) = shares.try_recv()
                    {
                        self.submit(&share);
                    }
                }
                () = sleep_until(deadline.into()) => {
                    return Err(if heard + self.timeouts.silence <= deadline {
                        Disconnect::Silent(self.timeouts.silence)
                    } else {
                        Disconnect::Unanswered(self.timeouts.response)
                    });
                }
            }
        }
    }

    fn deadline(&self, heard: Instant) -> Instant {
        let silence = heard + self.timeouts.silence;
        match self.session.waiting_since() {
            Some(since) => silence.min(since + self.timeouts.response),
            None => silence,
        }
    }

    /// Takes what the server said.
    fn take(&mut self, input: &[u8], now: Instant) -> Result<(), Disconnect> {
        let mut lines = self.lines.lines(input);
        while let Some(line) = lines.next() {
            let Line::Whole(line) = line else {
                return Err(Disconnect::LineTooLong);
            };
            match self.session.handle_line(line, now, &mut self.out)? {
                Some(Event::Reconnect(seconds)) => return Err(Disconnect::Reconnect(seconds)),
                Some(event) => handle(event, self.feed, self.counters),
                None => {}
            }
        }
        Ok(())
    }

    fn submit(&mut self, share: &Share) {
        let outcome = self.session.submit(share, Instant::now(), &mut self.out);
        count(match outcome {
            Submission::Sent => &self.counters.submitted,
            Submission::Stale => &self.counters.stale,
        });
    }
}

/// Writes some of the bytes, and says how many; where there are none, has those before leave.
async fn write_or_flush(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<usize> {
    if bytes.is_empty() {
        writer.flush().await?;
        return Ok(0);
    }
    match writer.write(bytes).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        written => Ok(written),
    }
}

fn handle(event: Event, feed: &Feed, counters: &Counters) {
    match event {
        Event::Work(work) => {
            tracing::debug!(job = %work.job_id, difficulty = %work.difficulty, "new work");
            counters.set_difficulty(work.difficulty);
            count(&counters.jobs);
            counters.mining.store(true, Relaxed);
            feed.publish(Some(work));
        }
        Event::Accepted(_) => count(&counters.accepted),
        Event::Rejected(_, reason, words) => {
            counters.reject(reason);
            tracing::debug!(?reason, words, "share rejected");
        }
        Event::Message(words) => tracing::info!(words, "message from the server"),
        Event::Malformed(fault) => {
            count(&counters.malformed_lines);
            tracing::debug!(%fault, "a line of the server makes no sense");
        }
        // Ends the connection, so it is the caller's.
        Event::Reconnect(_) => {}
    }
}

/// The longest line that a server may send. A notify whose coinbase pays thousands fits.
pub(crate) const MAX_LINE: usize = 256 * 1024;
pub(crate) const READ_SIZE: usize = 16 * 1024;
/// Bytes waiting to be written from which on no more are made.
pub(crate) const OUT_FULL: usize = 64 * 1024;
