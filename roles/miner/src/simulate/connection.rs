//! The task of one simulated miner: connects again and again, and moves bytes and time between a socket and the player.
//!
//! It owns no buffer for reading, which belongs to the thread, and none for writing while nothing waits.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use stratum_v1::{Line, LineBuffer};
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    task::yield_now,
    time::{sleep, sleep_until},
};

use super::{
    Farm,
    player::{Player, Step},
};
use crate::{
    backoff::Backoff,
    connection::{Disconnect, MAX_LINE, OUT_FULL, READ_SIZE},
    job::Claims,
    server::Halves,
    session::{Event, Session, Settings},
    status::count,
};

/// One miner of the farm, for as long as that runs.
pub(super) struct Driver {
    farm: Arc<Farm>,
    settings: Settings,
    claims: Claims,
    random: SmallRng,
}

impl Driver {
    /// The miner of this number, with a name and chances of its own.
    pub(super) fn new(number: u32, farm: Arc<Farm>) -> Self {
        let settings = Settings {
            user: format!("{}-{}", farm.user, number + 1),
            ..farm.settings.clone()
        };
        let seed = farm.options.seed.wrapping_add(u64::from(number) << 32);
        Self {
            random: SmallRng::seed_from_u64(seed),
            claims: Claims::default(),
            settings,
            farm,
        }
    }

    /// Connects again and again until the farm is finished.
    pub(super) async fn run(mut self) {
        let farm = self.farm.clone();
        let checked = &farm.checked;
        let mut backoff = Backoff::new(checked.reconnect_first, checked.reconnect_longest);
        loop {
            let dialled = tokio::select! {
                dialled = self.dial() => dialled,
                () = farm.finish.cancelled() => return,
            };
            let end = match dialled {
                Ok(halves) => {
                    let mut talk = self.conversation(halves);
                    let end = talk.run().await;
                    // A server that accepts and gives no work is as good as none.
                    if talk.jobs > 0 {
                        backoff.reset();
                    }
                    end
                }
                Err(error) => {
                    count(&farm.tally.connect_failures);
                    Disconnect::Connect(error)
                }
            };
            if matches!(end, Disconnect::Shutdown) {
                return;
            }
            farm.tally.trouble(end.to_string());
            let mut wait = backoff.wait(self.random.random());
            if let Disconnect::Reconnect(seconds) = end {
                wait = wait.max(Duration::from_secs(seconds).min(checked.reconnect_longest));
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = farm.finish.cancelled() => return,
            }
        }
    }

    async fn dial(&self) -> io::Result<Halves> {
        // The semaphore is never closed.
        let _turn = self.farm.dialling.acquire().await;
        self.farm
            .server
            .dial(self.farm.checked.connect_timeout)
            .await
    }

    fn conversation(&mut self, (reader, writer): Halves) -> Conversation {
        let session = Session::new(self.settings.clone(), self.claims.clone());
        let random = SmallRng::from_rng(&mut self.random);
        let options = &self.farm.options;
        Conversation {
            player: Player::new(session, options, random, Instant::now()),
            farm: self.farm.clone(),
            reader,
            writer,
            lines: LineBuffer::new(MAX_LINE),
            out: Vec::new(),
            unflushed: false,
            heard: Instant::now(),
            jobs: 0,
        }
    }
}

/// One connection.
struct Conversation {
    farm: Arc<Farm>,
    player: Player,
    reader: Reader,
    writer: Writer,
    lines: LineBuffer,
    /// Lines to be written.
    out: Vec<u8>,
    /// Something written may be held back, as TLS does when the socket is full.
    unflushed: bool,
    heard: Instant,
    jobs: u64,
}

impl Conversation {
    async fn run(&mut self) -> Disconnect {
        let tally = &self.farm.clone().tally;
        count(&tally.connects);
        count(&tally.connected);
        let end = match self.converse().await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        tally.connected.fetch_sub(1, Relaxed);
        if !matches!(end, Disconnect::Shutdown) {
            count(&tally.disconnects);
        }
        end
    }

    async fn converse(&mut self) -> Result<std::convert::Infallible, Disconnect> {
        let farm = self.farm.clone();
        self.player.start(Instant::now(), &mut self.out);
        loop {
            let finished = farm.finish.is_cancelled();
            if finished && self.player.session().unanswered_shares() == 0 {
                return Err(Disconnect::Shutdown);
            }
            let until = match self.step(finished) {
                Step::Sent(_) => continue,
                Step::Hash => {
                    self.hash().await;
                    continue;
                }
                Step::Wait(until) => Some(until),
                Step::Listen => None,
            };
            let deadline = self.deadline();
            let wake = until.map_or(deadline, |until| until.min(deadline));
            tokio::select! {
                moved = poll_fn(|context| self.poll(context)) => moved?,
                () = sleep_until(wake.into()) => self.check(deadline)?,
                () = farm.finish.cancelled(), if !finished => {}
            }
        }
    }

    /// Lets the player go on, unless no more shares are wanted or what it wrote is not taken.
    fn step(&mut self, finished: bool) -> Step {
        if finished || self.out.len() >= OUT_FULL {
            return Step::Listen;
        }
        let step = self
            .player
            .step(&self.farm.options, Instant::now(), &mut self.out);
        if let Step::Sent(kind) = step {
            self.farm.tally.submitted(kind);
        }
        step
    }

    /// A batch of hashes, when it is this miner's turn.
    async fn hash(&mut self) {
        // The semaphore is never closed.
        let _turn = self.farm.hashing.acquire().await;
        if let Some(kind) = self.player.hash(Instant::now(), &mut self.out) {
            self.farm.tally.submitted(kind);
        }
        yield_now().await;
    }

    /// Writes what there is and reads what has come; ready when the player has something to think about.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Disconnect>> {
        while let Poll::Ready(written) = self.poll_write(context)? {
            if !written {
                break;
            }
        }
        if self.out.len() >= OUT_FULL {
            return Poll::Pending;
        }
        INPUT.with_borrow_mut(|input| {
            let mut input = ReadBuf::new(input);
            ready!(Pin::new(&mut self.reader).poll_read(context, &mut input))?;
            if input.filled().is_empty() {
                return Poll::Ready(Err(Disconnect::Closed));
            }
            Poll::Ready(self.take(input.filled()))
        })
    }

    /// Whether something was written; ready with `false` when nothing waits.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<bool, io::Error>> {
        let mut writer = Pin::new(&mut self.writer);
        if self.out.is_empty() {
            if self.unflushed {
                ready!(writer.poll_flush(context))?;
                self.unflushed = false;
            }
            return Poll::Ready(Ok(false));
        }
        let written = ready!(writer.as_mut().poll_write(context, &self.out))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.unflushed = true;
        self.out.drain(..written);
        if self.out.is_empty() {
            self.out = Vec::new();
        }
        Poll::Ready(Ok(true))
    }

    /// Takes what the server said.
    fn take(&mut self, input: &[u8]) -> Result<(), Disconnect> {
        self.heard = Instant::now();
        let tally = &self.farm.tally;
        let mut lines = self.lines.lines(input);
        while let Some(line) = lines.next() {
            let Line::Whole(line) = line else {
                return Err(Disconnect::LineTooLong);
            };
            match self.player.handle_line(line, self.heard, &mut self.out)? {
                Some(Event::Work(_)) => {
                    self.jobs += 1;
                    count(&tally.jobs);
                }
                Some(Event::Accepted(answered)) => tally.accepted(answered),
                Some(Event::Rejected(answered, reason, _)) => tally.rejected(answered, reason),
                Some(Event::Reconnect(seconds)) => return Err(Disconnect::Reconnect(seconds)),
                Some(Event::Malformed(_)) => count(&tally.malformed_lines),
                Some(Event::Message(_)) | None => {}
            }
        }
        Ok(())
    }

    fn deadline(&self) -> Instant {
        let checked = &self.farm.checked;
        let silence = self.heard + checked.silence_timeout;
        match self.player.session().waiting_since() {
            Some(since) => silence.min(since + checked.response_timeout),
            None => silence,
        }
    }

    /// Whether the server has been waited for too long.
    fn check(&self, deadline: Instant) -> Result<(), Disconnect> {
        let checked = &self.farm.checked;
        if Instant::now() < deadline {
            return Ok(());
        }
        Err(if self.heard + checked.silence_timeout <= deadline {
            Disconnect::Silent(checked.silence_timeout)
        } else {
            Disconnect::Unanswered(checked.response_timeout)
        })
    }
}

type Reader = Box<dyn tokio::io::AsyncRead + Send + Unpin>;
type Writer = Box<dyn tokio::io::AsyncWrite + Send + Unpin>;

thread_local! {
    /// What is read, until it is handled.
    static INPUT: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
}
