//! The connections that there are, and what is left of those that were.
//!
//! Each connection counts for itself, in an entry that only a reader of the counts contends for; sums are made when somebody
//! asks. The one lock is taken when a connection comes or goes, never while bytes flow.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use service::http::Histogram;
use stats::sender::Happened;
use stats_events::Event;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clients::{Origin, UNKNOWN};
use crate::pools::{Latencies, latencies};
use crate::telling::{GONE, farewell};
use crate::totals::Totals;
use crate::watcher::{Kind, Seen, shortened};

/// The pool's host of connections that found no pool.
const NO_POOL: &str = "none";

/// By what counts are told apart: whose they are, and the host of the pool.
pub(crate) type Key = (Arc<str>, Arc<str>);

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    book: Mutex<Book>,
    ids: AtomicU64,
    /// Those that ended, for a stats service; none if nobody is told.
    gone: Option<Happened>,
}

#[derive(Debug, Default)]
struct Book {
    live: HashMap<u64, Arc<Entry>>,
    past: BTreeMap<Key, Past>,
    ended: BTreeMap<&'static str, u64>,
    /// When the last share was accepted on one that ended.
    last_share_ms: Option<u64>,
}

/// What connections that ended leave behind.
#[derive(Debug, Clone)]
struct Past {
    totals: Totals,
    durations: Durations,
    submits: Latencies,
}

impl Default for Past {
    fn default() -> Self {
        Self {
            totals: Totals::default(),
            durations: durations(),
            submits: latencies(),
        }
    }
}

/// Seconds; from firmware that cannot agree to a farm that never goes off.
pub(crate) type Durations = Histogram<8>;

const fn durations() -> Durations {
    Histogram::new(&[
        1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0,
    ])
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) origin: Origin,
    since: Instant,
    since_ms: u64,
    /// Whose it is, when that is known. Until then its counts are nobody's.
    client: OnceLock<Arc<str>>,
    /// The pool's name and host, when it is connected.
    pool: OnceLock<(Box<str>, Arc<str>)>,
    now: Mutex<Now>,
    /// Ends the connection.
    pub(crate) close: CancellationToken,
}

/// What changes about a connection.
#[derive(Debug, Default)]
struct Now {
    totals: Totals,
    difficulty: Option<f64>,
    user: Option<Box<str>>,
    user_agent: Option<Box<str>>,
    last_share_ms: Option<u64>,
    /// Only those that submit need one.
    submits: Option<Box<Latencies>>,
}

/// One connection as it is now.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct ConnectionSnapshot {
    /// Counts from 1.
    pub id: u64,
    /// Where the miner calls from.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// The port that it called.
    pub port: u16,
    /// Whose it is, as soon as that is known.
    pub client: Option<String>,
    /// The pool's name, when it is connected.
    #[schema(value_type = Option<String>)]
    pub pool: Option<Box<str>>,
    /// The first name that the pool authorised.
    #[schema(value_type = Option<String>)]
    pub user: Option<Box<str>>,
    /// What the miner calls itself.
    #[schema(value_type = Option<String>)]
    pub user_agent: Option<Box<str>>,
    /// What the miner was told last.
    pub difficulty: Option<f64>,
    /// When its last share was accepted: milliseconds since the Unix epoch.
    pub last_share_ms: Option<u64>,
    /// Milliseconds since the Unix epoch.
    pub connected_at_ms: u64,
    /// What was counted.
    pub totals: Totals,
}

/// Sums of all connections that were and are, by client and host.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    pub(crate) cells: BTreeMap<Key, Cell>,
    /// Connections that there are.
    pub(crate) active: usize,
    /// Connections that ended, by reason.
    pub(crate) ended: BTreeMap<&'static str, u64>,
}

/// The sums of one client at one host.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) totals: Totals,
    pub(crate) active: usize,
    /// Of those that were told one.
    difficulties: (f64, usize),
    pub(crate) durations: Durations,
    pub(crate) submits: Latencies,
}

impl Default for Cell {
    fn default() -> Self {
        let Past {
            totals,
            durations,
            submits,
        } = Past::default();
        Self {
            totals,
            active: 0,
            difficulties: (0.0, 0),
            durations,
            submits,
        }
    }
}

impl Cell {
    /// The mean of what connected miners were told.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn difficulty(&self) -> f64 {
        let (sum, count) = self.difficulties;
        if count == 0 { 0.0 } else { sum / count as f64 }
    }
}

impl Connections {
    /// None yet. `told` says whether a stats service is to hear of those that end.
    pub(crate) fn new(told: bool) -> Self {
        Self {
            gone: told.then(|| Happened::new(GONE)),
            ..Self::default()
        }
    }

    /// A miner has come.
    pub(crate) fn arrive(
        &self,
        peer: SocketAddr,
        port: u16,
        close: CancellationToken,
    ) -> Arc<Entry> {
        let entry = Arc::new(Entry {
            id: self.ids.fetch_add(1, Ordering::Relaxed) + 1,
            peer,
            origin: Origin {
                address: peer.ip(),
                port,
            },
            since: Instant::now(),
            since_ms: now_ms(),
            client: OnceLock::new(),
            pool: OnceLock::new(),
            now: Mutex::default(),
            close,
        });
        entry.now().totals.connections = 1;
        self.book().live.insert(entry.id, Arc::clone(&entry));
        entry
    }

    /// It has gone. If nobody knows whose it was, it is the unknown's.
    pub(crate) fn depart(&self, entry: &Entry, reason: &'static str) {
        let _ = entry.client.set(Arc::from(UNKNOWN));
        let key = entry.key_at_end();
        // Under one lock, so that who looks sees its counts once, and none smaller than before.
        let mut book = self.book();
        let lasted = entry.since();
        book.live.remove(&entry.id);
        *book.ended.entry(reason).or_default() += 1;
        let past = book.past.entry(key).or_default();
        let now = entry.now();
        past.totals.add(&now.totals);
        past.totals.connection_ms += milliseconds(lasted);
        past.durations.observe(lasted.as_secs_f64());
        if let Some(submits) = &now.submits {
            past.submits.add(submits);
        }
        let (worked, last_share_ms) = (now.totals.submits > 0, now.last_share_ms);
        drop(now);
        book.last_share_ms = book.last_share_ms.max(last_share_ms);
        // Under the lock of the book, so that whoever looks sees it either here or gone.
        if let Some(gone) = &self.gone {
            let farewell = farewell(&entry.snapshot(), now_ms(), reason);
            if worked {
                gone.push(farewell);
            } else {
                gone.push_idle(farewell);
            }
        }
    }

    /// About so many events of connections that ended, for a stats service.
    pub(crate) fn gone(&self, most: usize) -> Vec<Event> {
        let gone = self.gone.as_ref();
        gone.map_or_else(Vec::new, |gone| gone.take(most))
    }

    /// Events of connections that ended for which there was no room.
    pub(crate) fn dropped(&self) -> u64 {
        self.gone.as_ref().map_or(0, Happened::dropped)
    }

    /// The sum of all connections that were and are, also of those of which is not known whose they are; and when the last
    /// share was accepted.
    pub(crate) fn all(&self) -> (Totals, Option<u64>) {
        let book = self.book();
        let (mut totals, mut last_share_ms) = (Totals::default(), book.last_share_ms);
        for past in book.past.values() {
            totals.add(&past.totals);
        }
        for entry in book.live.values() {
            let now = entry.now();
            totals.add(&now.totals);
            last_share_ms = last_share_ms.max(now.last_share_ms);
        }
        (totals, last_share_ms)
    }

    /// Sums by client and host. A connection of which is not known whose it is, is among the unknown's active ones only.
    pub(crate) fn sums(&self) -> Sums {
        let book = self.book();
        let mut sums = Sums {
            cells: BTreeMap::new(),
            active: book.live.len(),
            ended: book.ended.clone(),
        };
        for (key, past) in &book.past {
            let cell = sums.cells.entry(key.clone()).or_default();
            cell.totals = past.totals.clone();
            cell.durations = past.durations.clone();
            cell.submits = past.submits.clone();
        }
        for entry in book.live.values() {
            let is_known = entry.client.get().is_some() && entry.pool.get().is_some();
            let cell = sums.cells.entry(entry.key_at_end()).or_default();
            cell.active += 1;
            let now = entry.now();
            if let Some(difficulty) = now.difficulty {
                cell.difficulties.0 += difficulty;
                cell.difficulties.1 += 1;
            }
            if is_known {
                cell.totals.add(&now.totals);
                cell.totals.connection_ms += milliseconds(entry.since());
                if let Some(submits) = &now.submits {
                    cell.submits.add(submits);
                }
            }
        }
        sums
    }

    /// All that there are, in the order in which they came.
    pub(crate) fn list(&self) -> Vec<ConnectionSnapshot> {
        let mut entries: Vec<Arc<Entry>> = self.book().live.values().cloned().collect();
        entries.sort_by_key(|entry| entry.id);
        entries.iter().map(|entry| entry.snapshot()).collect()
    }

    /// Ends one; whether there was one of this id.
    pub(crate) fn close(&self, id: u64) -> bool {
        let book = self.book();
        let entry = book.live.get(&id);
        entry.inspect(|entry| entry.close.cancel()).is_some()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    pub(crate) fn since(&self) -> Duration {
        self.since.elapsed()
    }

    /// It is known whose it is; the first time counts.
    pub(crate) fn belongs_to(&self, client: Arc<str>) {
        let _ = self.client.set(client);
    }

    pub(crate) fn is_identified(&self) -> bool {
        self.client.get().is_some()
    }

    pub(crate) fn relayed_to(&self, pool: &str, host: &Arc<str>) {
        let _ = self.pool.set((Box::from(pool), Arc::clone(host)));
    }

    /// What a turn has brought, beside the answers that the pool keeps.
    pub(crate) fn count(&self, seen: &Seen, difficulty: Option<f64>) {
        let mut now = self.now();
        now.totals.add(&seen.totals);
        now.difficulty = difficulty;
        if seen.totals.accepted > 0 {
            now.last_share_ms = Some(now_ms());
        }
        for (kind, took) in &seen.answers {
            if *kind == Kind::Submit {
                let submits = now.submits.get_or_insert_with(|| Box::new(latencies()));
                submits.observe(took.as_secs_f64());
            }
        }
    }

    pub(crate) fn is_user(&self, user: &str) {
        self.now().user = Some(shortened(user.chars()));
    }

    pub(crate) fn has_user_agent(&self, user_agent: &str) {
        self.now().user_agent = Some(Box::from(user_agent));
    }

    /// By what its counts are told apart, or would be if it ended now.
    fn key_at_end(&self) -> Key {
        let client = self.client.get().cloned();
        let host = self.pool.get().map(|(_, host)| Arc::clone(host));
        (
            client.unwrap_or_else(|| Arc::from(UNKNOWN)),
            host.unwrap_or_else(|| Arc::from(NO_POOL)),
        )
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> ConnectionSnapshot {
        let now = self.now();
        ConnectionSnapshot {
            id: self.id,
            address: self.peer,
            port: self.origin.port,
            client: self.client.get().map(|client| client.to_string()),
            pool: self.pool.get().map(|(name, _)| name.clone()),
            user: now.user.clone(),
            user_agent: now.user_agent.clone(),
            difficulty: now.difficulty,
            last_share_ms: now.last_share_ms,
            connected_at_ms: self.since_ms,
            totals: Totals {
                connection_ms: milliseconds(self.since()),
                ..now.totals.clone()
            },
        }
    }
}

/// Milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, milliseconds)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
