//! Who is connected and how they do, as a stats service is told; kept only where one is configured.
//!
//! Each connection publishes a record of its own, at most once a second and at its end. A record is swapped whole, so that
//! whoever looks at it keeps no connection waiting, and no two connections share a lock but when one comes or goes.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use stats::sender::Happened;
use stats_events::{Counters, Event, Peer, PeerEnd, PeerState, Work, WorkerState};

use crate::{
    acknowledge::Owner,
    session::{Session, Tally},
    shares::Rejection,
};

/// The time from one record of a connection to the next.
const PUBLISHED_EVERY: Duration = Duration::from_secs(1);

/// Events of peers that have gone and were not told yet.
const GONE: usize = 30_000;

/// Blocks, and changes of their states, that were not told yet.
const BLOCKS: usize = 4096;

/// Workers of closed channels that one connection keeps for the sender: those without a share, and all.
const IDLE_ENDED: usize = 128;
const MOST_ENDED: usize = 256;

/// All peers.
#[derive(Debug)]
pub(crate) struct Peers {
    table: Mutex<Table>,
    gone: Happened,
    pub(crate) blocks: Happened,
    last_share_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    last_id: u64,
    present: HashMap<u64, Arc<Entry>>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Entry {
    id: u64,
    address: SocketAddr,
    connected_at: Instant,
    connected_at_ms: u64,
    introduction: OnceLock<Box<Introduction>>,
    now: Mutex<Arc<Record>>,
    /// Workers of channels that were closed.
    ended: Mutex<Vec<WorkerRecord>>,
}

/// What a client said of itself in `SetupConnection`.
#[derive(Debug)]
pub(crate) struct Introduction {
    pub vendor: Box<str>,
    pub hardware: Box<str>,
    pub firmware: Box<str>,
    pub device_id: Box<str>,
    pub flags: u32,
}

/// What a connection has published.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub workers: Box<[WorkerRecord]>,
    pub channels: u32,
    pub extensions: &'static [u16],
    pub counts: Option<Box<Counts>>,
}

/// A worker on a channel.
#[derive(Debug)]
pub(crate) struct WorkerRecord {
    pub owner: Owner,
    pub channel: u32,
    pub since: Instant,
    pub difficulty: f64,
    pub counts: Option<Box<Counts>>,
}

/// What became of shares.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    accepted: u64,
    work: u128,
    last: Option<Instant>,
    rejected: [u64; Rejection::ALL.len()],
}

impl Counts {
    pub(crate) fn accept(&mut self, work: u128, now: Instant) {
        self.accepted += 1;
        self.work = self.work.saturating_add(work);
        self.last = Some(now);
    }

    pub(crate) fn reject(&mut self, rejection: Rejection) {
        self.rejected[rejection as usize] += 1;
    }

    fn add(&mut self, tally: &Tally, now: Instant) {
        self.accepted += tally.accepted;
        self.work = self.work.saturating_add(tally.work);
        if tally.accepted > 0 {
            self.last = Some(now);
        }
        for (sum, count) in self.rejected.iter_mut().zip(tally.rejected) {
            *sum += count;
        }
    }
}

/// A connection's way to its entry.
#[derive(Debug)]
pub(crate) struct Telling {
    entry: Arc<Entry>,
    counts: Option<Box<Counts>>,
    /// Something is not published yet.
    changed: bool,
    next: Instant,
}

impl Telling {
    /// Notes what a turn brought, and publishes where it is time to.
    pub(crate) fn turn(
        &mut self,
        peers: &Peers,
        session: &mut Session,
        tally: &Tally,
        at: Option<Instant>,
    ) {
        let shares = tally.accepted > 0 || tally.rejected.iter().any(|count| *count > 0);
        self.changed |= shares || tally.channels_opened > 0 || tally.channels_closed > 0;
        if let Some(introduction) = session.take_introduction() {
            let _ = self.entry.introduction.set(introduction);
            self.changed = true;
        }
        if !self.changed {
            return;
        }
        let now = at.unwrap_or_else(Instant::now);
        if shares {
            self.counts.get_or_insert_default().add(tally, now);
        }
        if now >= self.next {
            self.next = now + PUBLISHED_EVERY;
            self.changed = false;
            self.publish(peers, session);
        }
    }

    /// The connection has ended.
    pub(crate) fn end(&mut self, peers: &Peers, session: &mut Session, reason: &str) {
        self.publish(peers, session);
        peers.depart(&self.entry, reason);
    }

    fn publish(&self, peers: &Peers, session: &mut Session) {
        let mut record = session.record();
        record.counts.clone_from(&self.counts);
        if let Some(last) = record.counts.as_ref().and_then(|counts| counts.last) {
            let last = self.entry.unix_ms(last);
            peers.last_share_ms.fetch_max(last, Ordering::Relaxed);
        }
        // First what is there and then what is not: nothing that has ended is seen again.
        *lock(&self.entry.now) = Arc::new(record);
        let ended = session.take_ended();
        if !ended.is_empty() {
            let mut all = lock(&self.entry.ended);
            for worker in ended {
                note_end(&mut all, worker);
            }
        }
    }
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            table: Mutex::default(),
            gone: Happened::new(GONE),
            blocks: Happened::new(BLOCKS),
            last_share_ms: AtomicU64::new(0),
        }
    }
}

impl Peers {
    pub(crate) fn arrive(&self, address: SocketAddr, connected_at: Instant) -> Box<Telling> {
        let mut table = lock(&self.table);
        table.last_id += 1;
        let entry = Arc::new(Entry {
            id: table.last_id,
            address,
            connected_at,
            connected_at_ms: now_ms(),
            introduction: OnceLock::new(),
            now: Mutex::default(),
            ended: Mutex::default(),
        });
        table.present.insert(entry.id, Arc::clone(&entry));
        Box::new(Telling {
            entry,
            counts: None,
            changed: false,
            next: connected_at,
        })
    }

    /// Shows those that have introduced themselves.
    pub(crate) fn present(&self, port: u16, show: &mut dyn FnMut(Event)) {
        let mut present: Vec<_> = lock(&self.table).present.values().cloned().collect();
        present.sort_unstable_by_key(|entry| entry.id);
        for entry in present {
            let record = Arc::clone(&lock(&entry.now));
            let Some(introduction) = entry.introduction(port, &record) else {
                continue;
            };
            show(introduction);
            show(Event::Peer(PeerState {
                peer: entry.id,
                channels: record.channels,
                difficulty: None,
                counters: entry.counters(record.counts.as_deref()),
            }));
            for worker in &record.workers {
                show(entry.worker(worker, false));
            }
        }
    }

    /// Takes about so many events of workers, peers and blocks.
    pub(crate) fn happened(&self, most: usize) -> Vec<Event> {
        let mut events = self.blocks.take(most);
        let present: Vec<_> = lock(&self.table).present.values().cloned().collect();
        for entry in present {
            if events.len() >= most {
                break;
            }
            events.extend(entry.take_ended());
        }
        let room = most.saturating_sub(events.len());
        events.extend(self.gone.take(room));
        events
    }

    /// Events for which there was no room.
    pub(crate) fn dropped(&self) -> u64 {
        self.blocks.dropped() + self.gone.dropped()
    }

    /// When the last share was accepted.
    pub(crate) fn last_share_ms(&self) -> Option<u64> {
        Some(self.last_share_ms.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    fn depart(&self, entry: &Entry, reason: &str) {
        let record = Arc::clone(&lock(&entry.now));
        // Under the lock of the table, so that whoever looks sees the peer either here or gone.
        let mut table = lock(&self.table);
        if table.present.remove(&entry.id).is_none() {
            return;
        }
        let Some(introduction) = entry.introduction(0, &record) else {
            return;
        };
        let mut farewell = vec![introduction];
        farewell.extend(entry.take_ended());
        let workers = record.workers.iter();
        farewell.extend(workers.map(|worker| entry.worker(worker, true)));
        farewell.push(Event::PeerDisconnected(PeerEnd {
            peer: entry.id,
            disconnected_at_ms: now_ms(),
            reason: reason.to_owned(),
            counters: entry.counters(record.counts.as_deref()),
        }));
        if record.counts.is_some() {
            self.gone.push(farewell);
        } else {
            self.gone.push_idle(farewell);
        }
    }
}

impl Entry {
    fn introduction(&self, port: u16, record: &Record) -> Option<Event> {
        let said = self.introduction.get()?;
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Some(Event::PeerConnected(Peer {
            peer: self.id,
            connected_at_ms: self.connected_at_ms,
            address: self.address.to_string(),
            protocol: "sv2-mining".to_owned(),
            port,
            user_agent: None,
            vendor: text(&said.vendor),
            hardware: text(&said.hardware),
            firmware: text(&said.firmware),
            device_id: text(&said.device_id),
            flags: said.flags,
            extensions: record.extensions.to_vec(),
        }))
    }

    fn worker(&self, record: &WorkerRecord, ended: bool) -> Event {
        Event::Worker(WorkerState {
            peer: self.id,
            channel: record.channel,
            account: record.owner.account.to_string(),
            worker: record.owner.worker.to_string(),
            since_ms: self.unix_ms(record.since),
            ended,
            difficulty: Some(record.difficulty).filter(|value| value.is_finite() && *value > 0.0),
            counters: self.counters(record.counts.as_deref()),
        })
    }

    fn counters(&self, counts: Option<&Counts>) -> Counters {
        let Some(counts) = counts else {
            return Counters::default();
        };
        let rejected = Rejection::ALL.into_iter().zip(counts.rejected);
        Counters {
            submitted: counts.accepted + counts.rejected.iter().sum::<u64>(),
            accepted: counts.accepted,
            rejected: rejected
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| (reason.name().to_owned(), count))
                .collect(),
            work: Work(counts.work),
            last_share_ms: counts.last.map(|last| self.unix_ms(last)),
            ..Counters::default()
        }
    }

    fn take_ended(&self) -> Vec<Event> {
        let ended = std::mem::take(&mut *lock(&self.ended));
        let ended = ended.iter();
        ended.map(|worker| self.worker(worker, true)).collect()
    }

    /// The same for the same moment, whatever the clock does meanwhile.
    fn unix_ms(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.connected_at);
        self.connected_at_ms + u64::try_from(since.as_millis()).unwrap_or(0)
    }
}

/// Notes the end of a worker, as far as there is room: of those without a share there is less.
pub(crate) fn note_end(ended: &mut Vec<WorkerRecord>, worker: WorkerRecord) {
    let most = if worker.counts.is_some() {
        MOST_ENDED
    } else {
        IDLE_ENDED
    };
    if ended.len() < most {
        ended.push(worker);
    }
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind it is whole whenever it is free.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
