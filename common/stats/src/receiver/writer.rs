//! The one task that writes: it applies what senders tell, and commits what has changed once an interval.

mod rows;

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use stats_events::Hello;
use storage::{Keeper, Url};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{error, info};

use super::clock::Clock;
use super::metrics::Counters;
use super::order::{Order, Peer};
use super::{Error, Expected, History, StorageConfig, View};
use crate::board::Board;
use crate::series::Period;
use crate::state::{Outcome, Refusal, SHORTEST_HEARTBEAT, SenderKey};
use crate::store::{Batch, Committed, Connection as Store, Old, seconds};

/// Orders that are applied under one lock, so that readers need not wait for more.
const ORDERS_AT_ONCE: usize = 32;

/// Events between two commits. When there are more, the next commit does not wait for its time.
const MOST_EVENTS: usize = 20_000;

/// Series that are asked for samples at each commit. At five commits a second, 10,000 have their turn every two seconds.
const SERIES_AT_ONCE: usize = 1000;

/// Pauses between tries to commit.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How often senders that nobody listens to are excused for their silence: before any of them can be called silent.
const EXCUSE_INTERVAL: Duration = SHORTEST_HEARTBEAT;

/// Old samples are deleted so often, of so many series. Where nothing is told, this also finds out whether the database can
/// be written.
const CLEAN_INTERVAL: Duration = Duration::from_secs(10);
const CLEANED_AT_ONCE: usize = 1000;

/// Series of forgotten senders that are deleted at once, each of which may have more than ten thousand samples.
const DELETED_AT_ONCE: usize = 20;

/// For so long after the start no sender is forgotten: where the service was off for weeks, all of them have to come first.
const RETURN_TIME: Duration = Duration::from_secs(60 * 60);

pub(super) struct Writer {
    store: Keeper<Store>,
    boot: i64,
    inbox: mpsc::Receiver<Order>,
    board: Arc<RwLock<Board>>,
    clock: Clock,
    counters: Arc<Counters>,
    commits: watch::Sender<u64>,
    interval: Duration,
    kept: [(Period, u64); 3],
    senders_kept: Duration,
    forget_from: Instant,
    /// The connection that speaks for each sender.
    peers: HashMap<SenderKey, Arc<Peer>>,
    waiting: Waiting,
    next_commit: Instant,
    next_clean: Instant,
    cleaned: usize,
}

/// A store that is open and up to date, and what was in it.
pub(super) struct Opened {
    url: Url,
    store: Keeper<Store>,
    boot: i64,
    board: Board,
    clock: Clock,
}

impl Opened {
    /// Opens the database, keeps another service from writing there, and reads what there is.
    pub(super) async fn open(url: Url, expected: &[Expected]) -> Result<Self, Error> {
        let mut store = Store::open(&url, true).await?.migrate().await?;
        // First of all: what another one acknowledged later would not be read.
        let boot = store.count_start().await?;
        let clock = Clock::start();
        let mut board = rows::restore(&mut store, clock).await?;
        for expected in expected {
            board.expect(clock.now(), expected.key());
        }
        Ok(Self {
            store: Keeper::new("the store of stats", url.clone(), store),
            url,
            boot,
            board,
            clock,
        })
    }
}

type Answer = oneshot::Sender<Result<Arc<Peer>, Refusal>>;

/// Who is told something after the next commit.
#[derive(Default)]
struct Waiting {
    answers: Vec<(Answer, Arc<Peer>)>,
    stored: Vec<(Arc<Peer>, u64)>,
    events: usize,
}

impl Writer {
    pub(super) fn new(
        opened: Opened,
        config: &StorageConfig,
        inbox: mpsc::Receiver<Order>,
        counters: Arc<Counters>,
    ) -> (Self, View) {
        let Opened {
            url,
            store,
            boot,
            board,
            clock,
        } = opened;
        let board = Arc::new(RwLock::new(board));
        let commits = watch::Sender::new(0);
        let view = View {
            board: Arc::clone(&board),
            clock,
            health: store.health(),
            commits: commits.subscribe(),
            history: Arc::new(History::new(url)),
        };
        let now = Instant::now();
        let writer = Self {
            store,
            boot,
            inbox,
            board,
            clock,
            counters,
            commits,
            interval: config.commit_interval(),
            kept: config.kept(),
            senders_kept: config.senders_kept(),
            forget_from: now + RETURN_TIME,
            peers: HashMap::new(),
            waiting: Waiting::default(),
            next_commit: now,
            next_clean: now + CLEAN_INTERVAL,
            cleaned: 0,
        };
        (writer, view)
    }

    /// Runs until nobody can tell anything any more and all is committed, or until another process has taken over.
    pub(super) async fn run(mut self) {
        loop {
            let open = self.collect().await;
            let changes = if open {
                let now = self.clock.now();
                self.board().take_changes(now, SERIES_AT_ONCE)
            } else {
                self.board().take_all()
            };
            let batch = Batch::from(changes);
            if !batch.is_empty() {
                if self.commit(batch).await == Committed::TakenOver {
                    return self.taken_over();
                }
                self.commits.send_modify(|commits| *commits += 1);
            }
            self.tell();
            if !open {
                return;
            }
            if Instant::now() >= self.next_clean && self.clean().await == Committed::TakenOver {
                return self.taken_over();
            }
        }
    }

    fn board(&self) -> RwLockWriteGuard<'_, Board> {
        self.board.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn taken_over(&self) {
        error!("another service writes to the store of stats; this one stops");
        self.store.taken_over();
    }

    /// Applies what comes until the next commit is due; `false` when nothing can come any more.
    async fn collect(&mut self) -> bool {
        let mut orders = Vec::with_capacity(ORDERS_AT_ONCE);
        let mut open = true;
        while open && self.waiting.events < MOST_EVENTS {
            tokio::select! {
                biased;
                () = sleep_until(self.next_commit) => break,
                count = self.inbox.recv_many(&mut orders, ORDERS_AT_ONCE) => open = count > 0,
            }
            let board = Arc::clone(&self.board);
            let mut board = board.write().unwrap_or_else(PoisonError::into_inner);
            for order in orders.drain(..) {
                self.apply(&mut board, order);
            }
        }
        self.next_commit = Instant::now() + self.interval;
        open
    }

    fn apply(&mut self, board: &mut Board, order: Order) {
        let now = self.clock.now();
        match order {
            Order::Hello { hello, answer } => self.hello(board, &hello, answer),
            Order::Events(peer, events) => {
                if !self.speaks(&peer) {
                    return;
                }
                let mut last = 0;
                for event in &events {
                    let outcome = board.event(now, &peer.session, event);
                    self.counters.count(outcome);
                    if outcome == Outcome::Replaced {
                        return peer.replaced();
                    }
                    last = last.max(event.sequence);
                }
                self.waiting.events += events.len();
                self.waiting.stored.push((peer, last));
            }
            Order::Heartbeat(peer) => {
                if self.speaks(&peer) {
                    board.heartbeat(now, &peer.session);
                }
            }
            Order::Gone(peer) => {
                if self.speaks(&peer) {
                    self.peers.remove(&peer.session.key);
                    board.disconnected(now, &peer.session);
                    info!(sender = %peer.session.key, "sender has gone");
                }
            }
        }
    }

    fn hello(&mut self, board: &mut Board, hello: &Hello, answer: Answer) {
        match board.hello(self.clock.now(), hello) {
            Ok(session) => {
                let peer = Peer::new(session);
                let key = peer.session.key.clone();
                // A sender whose link was cut may come again before the end of its old connection is noticed.
                if let Some(before) = self.peers.insert(key, Arc::clone(&peer)) {
                    before.replaced();
                }
                self.waiting.answers.push((answer, peer));
            }
            Err(refusal) => {
                // Who hung up meanwhile does not want to know.
                let _ = answer.send(Err(refusal));
            }
        }
    }

    /// Whether this connection is its sender's last one.
    fn speaks(&self, peer: &Arc<Peer>) -> bool {
        let last = self.peers.get(&peer.session.key);
        last.is_some_and(|last| Arc::ptr_eq(last, peer))
    }

    /// Tries until the batch is in, or until it never will be.
    async fn commit(&mut self, batch: Batch) -> Committed {
        let batch = Arc::new(batch);
        let rows = batch.documents.len() + batch.gone.len() + batch.samples.len();
        let mut pause = FIRST_PAUSE;
        loop {
            let boot = self.boot;
            let attempt = self
                .store
                .attempt(async |store| store.commit(boot, Arc::clone(&batch)).await);
            let committed = excusing(&self.board, self.clock, attempt).await;
            if let Some(committed) = committed {
                self.counters.commits.fetch_add(1, Relaxed);
                self.counters.rows.fetch_add(rows as u64, Relaxed);
                return committed;
            }
            excusing(&self.board, self.clock, sleep(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Answers those who waited for the commit.
    fn tell(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        for (peer, sequence) in waiting.stored {
            peer.stored(sequence);
        }
        for (answer, peer) in waiting.answers {
            if let Err(Ok(peer)) = answer.send(Ok(peer)) {
                let board = Arc::clone(&self.board);
                let mut board = board.write().unwrap_or_else(PoisonError::into_inner);
                self.apply(&mut board, Order::Gone(peer));
            }
        }
    }

    /// Forgets senders, and deletes old samples of some series, which are others each time.
    async fn clean(&mut self) -> Committed {
        self.next_clean = Instant::now() + CLEAN_INTERVAL;
        if Instant::now() >= self.forget_from {
            let now = self.clock.now();
            self.board().forget(now, self.senders_kept);
        }
        let old = Arc::new(self.old());
        let (boot, gone) = (self.boot, old.gone.len());
        let attempt = self
            .store
            .attempt(async |store| store.clean(boot, Arc::clone(&old)).await);
        let cleaned = excusing(&self.board, self.clock, attempt).await;
        if cleaned == Some(Committed::Yes) {
            self.board().deleted(gone);
        }
        // What was not cleaned now is cleaned when its turn comes again.
        cleaned.unwrap_or(Committed::Yes)
    }

    fn old(&mut self) -> Old {
        let (series, gone): (Vec<i64>, _) = {
            let board = self.board.read().unwrap_or_else(PoisonError::into_inner);
            let series = board.series_numbers().skip(self.cleaned);
            (
                series.take(CLEANED_AT_ONCE).collect(),
                board.forgotten_series(DELETED_AT_ONCE),
            )
        };
        self.cleaned = if series.len() < CLEANED_AT_ONCE {
            0
        } else {
            self.cleaned + CLEANED_AT_ONCE
        };
        let now_ms = self.clock.now().unix_ms;
        let before_ms = self.kept.into_iter().map(|(period, kept_ms)| {
            let before_ms = now_ms.saturating_sub(kept_ms);
            (
                seconds(period),
                i64::try_from(before_ms).unwrap_or(i64::MAX),
            )
        });
        Old {
            series,
            before_ms: before_ms.collect(),
            gone,
        }
    }
}

/// Nobody listens to senders while this lasts, so nobody may call them silent.
async fn excusing<T>(board: &RwLock<Board>, clock: Clock, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let mut again = interval(EXCUSE_INTERVAL);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once.
    let mut ticks = 0;
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = again.tick() => ticks += 1,
        }
        if ticks > 1 {
            let mut board = board.write().unwrap_or_else(PoisonError::into_inner);
            board.excuse_silence(clock.now());
        }
    }
}
