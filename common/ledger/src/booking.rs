//! From a connection to the writer: what was accepted goes one way, what is durable comes back.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::block::{Block, BlockState};

/// Work of one worker, to be booked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who is paid for it.
    pub account: Arc<str>,
    /// Which of the account's machines; may be empty.
    pub worker: Arc<str>,
    /// Done for a block that pays the account itself.
    pub solo: bool,
    /// Accepted shares.
    pub shares: u64,
    /// Their work, in expected hashes.
    pub work: u128,
}

/// What the writer takes.
pub(crate) enum Order {
    Work(Bundle),
    BlockFound(Block, Receipt),
    BlockState([u8; 32], BlockState, Receipt),
}

/// Work of one connection.
pub(crate) struct Bundle {
    pub turn: Turn,
    line: Arc<Line>,
    _held: OwnedSemaphorePermit,
}

/// What a connection books at a time.
#[derive(Debug)]
pub(crate) struct Turn {
    number: u64,
    /// Minutes since the Unix epoch.
    pub minute: i64,
    pub entries: Vec<Entry>,
    booked_at: Instant,
}

impl Turn {
    /// How long it has waited, and with how many shares.
    pub(crate) fn waited(&self, now: Instant) -> (Duration, u64) {
        let shares = self.entries.iter().map(|entry| entry.shares).sum();
        (now.saturating_duration_since(self.booked_at), shares)
    }
}

/// Tells whoever waits that the order has been carried out.
pub(crate) struct Receipt {
    _done: oneshot::Sender<()>,
    _held: OwnedSemaphorePermit,
}

impl Bundle {
    /// It is durable.
    pub(crate) fn committed(&self) {
        self.line
            .committed
            .store(self.turn.number, Ordering::Release);
        self.line.changed.notify_one();
    }
}

/// The end that connections have.
#[derive(Debug, Clone)]
pub(crate) struct Inbox {
    orders: mpsc::UnboundedSender<Order>,
    /// What may wait; it is the bound of the queue, counted in entries rather than in messages.
    room: Arc<Semaphore>,
    capacity: u32,
}

/// The end that the writer has.
pub(crate) type Outlet = mpsc::UnboundedReceiver<Order>;

pub(crate) fn queue(capacity: usize) -> (Inbox, Outlet) {
    let (orders, outlet) = mpsc::unbounded_channel();
    let inbox = Inbox {
        orders,
        room: Arc::new(Semaphore::new(capacity)),
        capacity: u32::try_from(capacity).unwrap_or(u32::MAX),
    };
    (inbox, outlet)
}

impl Inbox {
    /// Counts the entries that wait, also after the inbox is gone.
    pub(crate) fn waiting(&self) -> impl Fn() -> usize + use<> {
        let (room, capacity) = (Arc::clone(&self.room), self.capacity);
        move || (capacity as usize).saturating_sub(room.available_permits())
    }

    pub(crate) async fn block_found(&self, block: Block) {
        // What it takes in memory, in entries.
        let size = block.raw.as_ref().map_or(0, Vec::len);
        self.order(1 + size / size_of::<Entry>(), |receipt| {
            Order::BlockFound(block, receipt)
        })
        .await;
    }

    pub(crate) async fn block_state(&self, hash: [u8; 32], state: BlockState) {
        self.order(1, |receipt| Order::BlockState(hash, state, receipt))
            .await;
    }

    async fn order(&self, weight: usize, order: impl FnOnce(Receipt) -> Order) {
        let weight = self.weight(weight);
        // The semaphore is never closed.
        let Ok(held) = Arc::clone(&self.room).acquire_many_owned(weight).await else {
            return;
        };
        let (done, carried_out) = oneshot::channel();
        let receipt = Receipt {
            _done: done,
            _held: held,
        };
        if self.orders.send(order(receipt)).is_ok() {
            // Dropping the receipt is the answer.
            let _ = carried_out.await;
        }
    }

    /// How much room so many entries take. More of them than there is room for at all are let in alone.
    fn weight(&self, entries: usize) -> u32 {
        u32::try_from(entries)
            .unwrap_or(u32::MAX)
            .min(self.capacity)
    }
}

/// A connection's own way to the ledger and back.
///
/// Turns are numbered by the caller, upwards. They become durable in their order.
#[derive(Debug)]
pub struct Booking {
    inbox: Inbox,
    line: Arc<Line>,
    /// Turns for which there was no room. While there are any, the connection is not to be read.
    waiting: VecDeque<Turn>,
    booked: u64,
    told: u64,
}

#[derive(Debug)]
struct Line {
    committed: AtomicU64,
    changed: Notify,
}

impl Booking {
    pub(crate) fn new(inbox: Inbox) -> Self {
        Self {
            inbox,
            line: Arc::new(Line {
                committed: AtomicU64::new(0),
                changed: Notify::new(),
            }),
            waiting: VecDeque::new(),
            booked: 0,
            told: 0,
        }
    }

    /// Books the work of the turn with this number, which is above those before it and above zero.
    pub fn book(&mut self, number: u64, entries: Vec<Entry>) {
        self.booked = number;
        let weight = self.inbox.weight(entries.len());
        let turn = Turn {
            number,
            minute: minute_now(),
            entries,
            booked_at: Instant::now(),
        };
        match Arc::clone(&self.inbox.room).try_acquire_many_owned(weight) {
            Ok(held) if self.waiting.is_empty() => self.send(turn, held),
            _ => self.waiting.push_back(turn),
        }
    }

    /// Whether the queue is full: the connection must not be read, so that no more has to be booked.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether anything that was booked is not yet known to be durable.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.told < self.booked
    }

    /// Waits until more is durable, or until it is no longer [blocked](Self::is_blocked); gives the number of the last
    /// turn that is durable. Losing the future loses nothing.
    pub async fn progress(&mut self) -> u64 {
        loop {
            let committed = self.line.committed.load(Ordering::Acquire);
            if committed > self.told {
                self.told = committed;
                return committed;
            }
            let Some(turn) = self.waiting.front() else {
                self.line.changed.notified().await;
                continue;
            };
            let weight = self.inbox.weight(turn.entries.len());
            let room = Arc::clone(&self.inbox.room).acquire_many_owned(weight);
            let room = tokio::select! {
                () = self.line.changed.notified() => continue,
                room = room => room,
            };
            if let (Ok(held), Some(turn)) = (room, self.waiting.pop_front()) {
                self.send(turn, held);
            }
            if self.waiting.is_empty() {
                return self.told;
            }
        }
    }

    fn send(&self, turn: Turn, held: OwnedSemaphorePermit) {
        // If the writer has ended, nothing becomes durable and so nothing is acknowledged.
        let _ = self.inbox.orders.send(Order::Work(Bundle {
            turn,
            line: Arc::clone(&self.line),
            _held: held,
        }));
    }
}

/// Minutes since the Unix epoch.
fn minute_now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs() / 60).unwrap_or(i64::MAX)
}
