//! The stats protocol: frames out of a stream, messages out of frames, and a service's knowledge out of messages.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Serialize, de::DeserializeOwned};
use stats::Now;
use stats::board::{Board, Of};
use stats::series::Window;
use stats::state::{Document, Key, Outcome, SenderKey, Session, Totals, WorkerKey};
use stats_events::{Event, FrameReader, FromSender, FromService, Work, decode, encode};

/// The first byte says in what pieces the others come. However that is, the same frames come out; each is a message or
/// refused without a panic; and whatever the messages say, a service's sums only grow, and are the same after a restart.
pub fn frames(data: &[u8]) {
    let Some((&size, stream)) = data.split_first() else {
        return;
    };
    let whole = split(stream, stream.len().max(1));
    let pieces = split(stream, usize::from(size).max(1));
    assert_eq!(whole, pieces, "pieces of {size} bytes");
    let mut service = Service::new();
    for frame in &whole.0 {
        same_again::<FromService>(frame);
        if let Some(message) = same_again::<FromSender>(frame) {
            service.hear(message);
        }
    }
    service.restart();
}

/// Whole frames, and whether the rest was none.
fn split(stream: &[u8], size: usize) -> (Vec<Vec<u8>>, bool) {
    let mut reader = FrameReader::default();
    let mut found = Vec::new();
    for chunk in stream.chunks(size) {
        reader.push(chunk);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => found.push(frame.to_vec()),
                Ok(None) => break,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return (found, true);
                }
            }
        }
        assert!(reader.held() <= stream.len());
    }
    (found, false)
}

/// The message of a frame, which is the same after it was written and read once more.
fn same_again<M: Serialize + DeserializeOwned>(frame: &[u8]) -> Option<M> {
    let message = decode::<M>(frame).ok()?;
    let mut written = Vec::new();
    encode(&message, &mut written).unwrap();
    let again: M = decode(&written[4..]).unwrap();
    let mut rewritten = Vec::new();
    encode(&again, &mut rewritten).unwrap();
    assert_eq!(written, rewritten);
    Some(message)
}

struct Service {
    board: Board,
    now: Now,
    session: Option<Session>,
    stored: BTreeMap<(SenderKey, Key), String>,
    sums: BTreeMap<SenderKey, Sums>,
}

/// What can only grow.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sums {
    sender: Totals,
    workers: BTreeMap<WorkerKey, Totals>,
}

impl Service {
    fn new() -> Self {
        Self {
            board: Board::default(),
            now: Now {
                instant: Instant::now(),
                unix_ms: 1_700_000_000_000,
            },
            session: None,
            stored: BTreeMap::new(),
            sums: BTreeMap::new(),
        }
    }

    fn hear(&mut self, message: FromSender) {
        self.now.instant += Duration::from_secs(1);
        self.now.unix_ms += 1000;
        match (message, &self.session) {
            (FromSender::Hello(hello), session) => {
                if session.is_some() {
                    // Its connection ends, and it comes again when it is no longer heard.
                    self.now.instant += Duration::from_secs(1000);
                }
                if let Ok(session) = self.board.hello(self.now, &hello) {
                    self.session = Some(session);
                }
            }
            (FromSender::Event(event), Some(session)) => {
                let outcome = self.board.event(self.now, session, &event);
                if event.event.check().is_err() || event.event == Event::Unknown {
                    assert!(matches!(outcome, Outcome::Skipped | Outcome::Repeated));
                }
                let again = self.board.event(self.now, session, &event);
                assert_eq!(again, Outcome::Repeated);
            }
            (FromSender::Heartbeat { .. }, Some(session)) => {
                self.board.heartbeat(self.now, session);
            }
            _ => {}
        }
        self.check();
    }

    /// Sums have not become less; hashrates are numbers.
    fn check(&mut self) {
        let sums = sums(&self.board);
        for (key, before) in &self.sums {
            let now = &sums[key];
            assert!(now.sender.counters.work >= before.sender.counters.work);
            assert!(now.sender.counters.accepted >= before.sender.counters.accepted);
            for (worker, before) in &before.workers {
                assert!(now.workers[worker].counters.work >= before.counters.work);
            }
        }
        self.sums = sums;
        for key in self.sums.keys() {
            for window in Window::ALL {
                let hashrate = self.board.hashrate(self.now, key, Of::Sender, window);
                assert!(hashrate.is_none_or(|value| value.is_finite() && value >= 0.0));
            }
        }
    }

    /// A service that starts with what was stored knows the same.
    fn restart(&mut self) {
        for (sender, key, document) in self.board.take_changes(self.now, 1000).documents {
            let key: Key = serde_json::from_str(&serde_json::to_string(&key).unwrap()).unwrap();
            match document {
                Some(document) => {
                    let document = serde_json::to_string(&document).unwrap();
                    self.stored.insert((sender, key), document);
                }
                None => drop(self.stored.remove(&(sender, key))),
            }
        }
        let stored = self.stored.iter().map(|((sender, key), document)| {
            let document: Document = serde_json::from_str(document).unwrap();
            (sender.clone(), key.clone(), document)
        });
        let restored = Board::restore(self.now, stored);
        assert_eq!(sums(&restored), self.sums);
    }
}

fn sums(board: &Board) -> BTreeMap<SenderKey, Sums> {
    let senders = board.state().senders();
    let sums = senders.map(|(key, sender)| {
        let workers = sender.workers().iter();
        let workers = workers.map(|(key, worker)| (WorkerKey::clone(key), worker.totals()));
        // A worker without work and sessions is not stored.
        let workers = workers.filter(|(_, totals)| totals.counters.work > Work(0));
        let sums = Sums {
            sender: sender.totals(),
            workers: workers.collect(),
        };
        (key.clone(), sums)
    });
    sums.collect()
}
