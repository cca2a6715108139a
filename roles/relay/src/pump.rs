//! Moves bytes between a miner and a pool, both ways, without changing one.
//!
//! Bytes are read into a buffer of the worker thread and offered to the other side at once. What that side does not take is
//! kept, at most one read's worth for each direction, and until it has gone the side that it came from is not read: TCP then
//! slows that one down. So an idle connection owns no buffer, nothing is dropped, and nothing grows.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use crate::guard::{Guard, Refusal};
use crate::watcher::{Seen, Watcher};

/// Bytes read at once, and the most that is kept for a side that takes no more.
pub(crate) const READ_SIZE: usize = 32 * 1024;

thread_local! {
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One of the two that are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Miner,
    Pool,
}

/// Why a connection has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Both sides have said all they had to say; this one was the first.
    Closed(Side),
    /// This side's connection broke off.
    Reset(Side),
    /// The miner said what may not be passed on.
    Refused(Refusal),
}

/// What happened in one turn.
#[derive(Debug)]
pub(crate) struct Turn {
    /// What was counted, bytes and pauses included.
    pub(crate) seen: Seen,
    /// When.
    pub(crate) at: Instant,
    /// Whether that was all.
    pub(crate) end: Option<End>,
}

/// Both sides of a connection, and what is between them.
#[derive(Debug)]
pub(crate) struct Pump<M, P> {
    /// For the log.
    id: u64,
    pub(crate) miner: M,
    pub(crate) pool: P,
    up: Flow,
    down: Flow,
    pub(crate) watcher: Watcher,
    guard: Option<Box<Guard>>,
    refusal: Option<Refusal>,
    /// Who said first that nothing more would come.
    first: Option<Side>,
}

impl<M, P> Pump<M, P>
where
    M: AsyncRead + AsyncWrite + Unpin,
    P: AsyncRead + AsyncWrite + Unpin,
{
    pub(crate) fn new(
        id: u64,
        miner: M,
        pool: P,
        watcher: Watcher,
        guard: Option<Box<Guard>>,
    ) -> Self {
        Self {
            id,
            miner,
            pool,
            up: Flow::new(Side::Miner),
            down: Flow::new(Side::Pool),
            watcher,
            guard,
            refusal: None,
            first: None,
        }
    }

    /// Moves what can be moved, at most one read of each side; waits until something can. Dropping the future loses nothing.
    pub(crate) async fn turn(&mut self) -> Turn {
        poll_fn(|context| self.poll_turn(context)).await
    }

    /// Who said first that nothing more would come, or broke off.
    pub(crate) fn first(&self) -> Option<Side> {
        self.first
    }

    /// Whether the miner will say nothing more, and the pool has been told so.
    pub(crate) fn miner_has_said_all(&self) -> bool {
        self.up.is_over()
    }

    /// Says a line of the relay's own to the miner, after all that the pool has said and no other line, and ends with it.
    pub(crate) async fn say_last(&mut self, line: &[u8]) -> io::Result<()> {
        let kept = std::mem::take(&mut self.down.kept);
        let rest = &kept[self.down.sent..];
        self.miner.write_all(rest).await?;
        let is_within_a_line = rest
            .last()
            .map_or(self.down.is_within_a_line, |last| *last != b'\n');
        if is_within_a_line {
            self.miner.write_all(b"\n").await?;
        }
        self.miner.write_all(line).await?;
        self.miner.shutdown().await
    }

    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Turn> {
        let mut tally = Tally::new(self.id);
        let (watcher, guard, refusal) = (&mut self.watcher, &mut self.guard, &mut self.refusal);
        let up = &mut self.up;
        up.poll(
            context,
            &mut self.miner,
            &mut self.pool,
            &mut tally,
            |bytes, now| match guard {
                None => {
                    watcher.miner_said(bytes, now.into_std());
                    See::All
                }
                Some(guard) => {
                    let mut admitted = Vec::new();
                    *refusal = guard.admit(bytes, &mut admitted).err();
                    watcher.miner_said(&admitted, now.into_std());
                    See::Only(admitted, refusal.is_some())
                }
            },
        );
        let down = &mut self.down;
        down.poll(
            context,
            &mut self.pool,
            &mut self.miner,
            &mut tally,
            |bytes, now| {
                watcher.pool_said(bytes, now.into_std());
                See::All
            },
        );
        if !tally.moved {
            return Poll::Pending;
        }
        self.first = self.first.or(tally.ended);
        let mut seen = self.watcher.take();
        seen.totals.bytes_sent = self.up.take_moved();
        seen.totals.bytes_received = self.down.take_moved();
        seen.totals.pauses = tally.pauses;
        seen.totals.resumes = tally.resumes;
        let (at, end) = (tally.now(), self.end());
        Poll::Ready(Turn { seen, at, end })
    }

    fn end(&mut self) -> Option<End> {
        let (up, down) = (&self.up, &self.down);
        if up.is_over() && self.refusal.is_some() {
            return self.refusal.take().map(End::Refused);
        }
        if up.is_over() && up.broken {
            return Some(End::Reset(Side::Miner));
        }
        if down.is_over() && down.broken {
            return Some(End::Reset(Side::Pool));
        }
        if !(up.is_over() && down.is_over()) {
            return None;
        }
        let reset_by = if up.state == State::Refused {
            Side::Pool
        } else {
            Side::Miner
        };
        Some(self.first.map_or(End::Reset(reset_by), End::Closed))
    }
}

/// What may be passed on of what was read.
enum See {
    All,
    /// This instead, and whether it is the last.
    Only(Vec<u8>, bool),
}

/// What one turn does, for both directions.
struct Tally {
    id: u64,
    moved: bool,
    pauses: u64,
    resumes: u64,
    ended: Option<Side>,
    now: Option<Instant>,
}

impl Tally {
    fn new(id: u64) -> Self {
        Self {
            id,
            moved: false,
            pauses: 0,
            resumes: 0,
            ended: None,
            now: None,
        }
    }

    /// One look at the clock for all that a turn brings.
    fn now(&mut self) -> Instant {
        *self.now.get_or_insert_with(Instant::now)
    }
}

/// One direction.
#[derive(Debug)]
struct Flow {
    /// Where it comes from.
    from: Side,
    /// What was read and not taken, from `sent` on.
    kept: Vec<u8>,
    sent: usize,
    /// Bytes that were taken since this was asked last.
    moved: u64,
    state: State,
    /// Whether the source has not ended but broken off.
    broken: bool,
    /// Whether what was taken so far ends in the middle of a line.
    is_within_a_line: bool,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum State {
    Open,
    /// Nothing more comes, which is passed on when all that is kept has gone.
    Ending,
    /// Nothing more comes, and that is not to be passed on by this direction.
    Stopping,
    /// All has been passed on.
    Done,
    /// The other side takes nothing any more.
    Refused,
}

impl Flow {
    fn new(from: Side) -> Self {
        Self {
            from,
            kept: Vec::new(),
            sent: 0,
            moved: 0,
            state: State::Open,
            broken: false,
            is_within_a_line: false,
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Refused)
    }

    fn take_moved(&mut self) -> u64 {
        std::mem::take(&mut self.moved)
    }

    /// Moves what can be moved now. Where nothing can, the task is woken when that changes.
    fn poll<S, D>(
        &mut self,
        context: &mut Context<'_>,
        source: &mut S,
        sink: &mut D,
        tally: &mut Tally,
        see: impl FnOnce(&[u8], Instant) -> See,
    ) where
        S: AsyncRead + Unpin,
        D: AsyncWrite + Unpin,
    {
        if self.is_over() || self.poll_kept(context, sink, tally).is_pending() {
            return;
        }
        if self.state == State::Open {
            self.poll_read(context, source, sink, tally, see);
        }
        if !self.kept.is_empty() {
            return;
        }
        match self.state {
            State::Ending => {
                // How it goes makes no difference: a sink that is gone has ended too.
                if Pin::new(sink).poll_shutdown(context).is_ready() {
                    self.is_now(State::Done, tally);
                }
            }
            // TLS may still have some of what was written.
            State::Stopping => {
                if Pin::new(sink).poll_flush(context).is_ready() {
                    self.is_now(State::Done, tally);
                }
            }
            State::Open | State::Done | State::Refused => {}
        }
    }

    /// Ready when nothing is kept.
    fn poll_kept<D: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        sink: &mut D,
        tally: &mut Tally,
    ) -> Poll<()> {
        if self.kept.is_empty() {
            return Poll::Ready(());
        }
        let kept = std::mem::take(&mut self.kept);
        let taken = write(context, sink, &kept[self.sent..]);
        self.taken(taken, &kept[self.sent..], tally);
        self.kept = kept;
        self.sent += taken.bytes;
        if taken.refused {
            self.kept = Vec::new();
        } else if self.sent < self.kept.len() {
            return Poll::Pending;
        } else {
            self.kept = Vec::new();
            tally.resumes += 1;
            tracing::debug!(connection = tally.id, from = ?self.from, "resumed");
        }
        self.sent = 0;
        Poll::Ready(())
    }

    fn poll_read<S, D>(
        &mut self,
        context: &mut Context<'_>,
        source: &mut S,
        sink: &mut D,
        tally: &mut Tally,
        see: impl FnOnce(&[u8], Instant) -> See,
    ) where
        S: AsyncRead + Unpin,
        D: AsyncWrite + Unpin,
    {
        READ.with_borrow_mut(|buffer| {
            buffer.resize(READ_SIZE, 0);
            let mut buffer = ReadBuf::new(buffer);
            match Pin::new(source).poll_read(context, &mut buffer) {
                Poll::Pending => {
                    // TLS may have kept something; who waits for it is woken by that.
                    let _ = Pin::new(sink).poll_flush(context);
                }
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => self.ended(tally),
                Poll::Ready(Ok(())) => {
                    let bytes = buffer.filled();
                    match see(bytes, tally.now()) {
                        See::All => self.pass_on(context, sink, bytes, tally),
                        See::Only(bytes, is_last) => {
                            self.pass_on(context, sink, &bytes, tally);
                            if is_last && !self.is_over() {
                                self.is_now(State::Ending, tally);
                            }
                        }
                    }
                }
                // TLS that was not ended as it should be; to be told from the end by TLS itself.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.ended(tally);
                }
                Poll::Ready(Err(_)) => {
                    self.broken = true;
                    tally.ended.get_or_insert(self.from);
                    self.is_now(State::Stopping, tally);
                }
            }
        });
    }

    /// Offers what was read, and keeps what is not taken.
    fn pass_on<D: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        sink: &mut D,
        bytes: &[u8],
        tally: &mut Tally,
    ) {
        tally.moved = true;
        let taken = write(context, sink, bytes);
        self.taken(taken, bytes, tally);
        if !taken.refused && taken.bytes < bytes.len() {
            self.kept = bytes[taken.bytes..].to_vec();
            tally.pauses += 1;
            tracing::debug!(connection = tally.id, from = ?self.from, "paused");
        }
    }

    fn taken(&mut self, taken: Taken, bytes: &[u8], tally: &mut Tally) {
        self.moved += taken.bytes as u64;
        if let Some(last) = bytes[..taken.bytes].last() {
            self.is_within_a_line = *last != b'\n';
        }
        tally.moved |= taken.bytes > 0;
        if taken.refused {
            self.is_now(State::Refused, tally);
        }
    }

    fn ended(&mut self, tally: &mut Tally) {
        tally.ended.get_or_insert(self.from);
        self.is_now(State::Ending, tally);
    }

    fn is_now(&mut self, state: State, tally: &mut Tally) {
        self.state = state;
        tally.moved = true;
    }
}

/// What a sink took of what it was offered.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    bytes: usize,
    /// It takes nothing any more.
    refused: bool,
}

/// Offers until all is taken or nothing more is; the task is woken when it may be again.
fn write<D: AsyncWrite + Unpin>(context: &mut Context<'_>, sink: &mut D, bytes: &[u8]) -> Taken {
    let mut taken = Taken::default();
    while taken.bytes < bytes.len() {
        match Pin::new(&mut *sink).poll_write(context, &bytes[taken.bytes..]) {
            Poll::Ready(Ok(size)) if size > 0 => taken.bytes += size,
            Poll::Ready(_) => {
                taken.refused = true;
                break;
            }
            Poll::Pending => break,
        }
    }
    taken
}

#[cfg(test)]
mod tests;
