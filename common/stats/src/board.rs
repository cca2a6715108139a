//! What a stats service shows: the [`State`] and the hashrates of everybody in it.
//!
//! It is driven by one writer and read by pages, API and metrics. Like the state it has no clock and no I/O.

use std::collections::HashMap;

use stats_events::{Hello, Numbered};

use crate::series::{Period, Sample, Series, Window};
use crate::state::{
    Document, Key, Now, Outcome, PeerName, Refusal, SenderKey, Session, State, Subject, WorkerKey,
};

/// Series of one sender; whoever comes later has no hashrate of its own.
const MOST_SERIES: usize = 200_000;

/// Everything that is known, with hashrates.
#[derive(Debug, Default)]
pub struct Board {
    state: State,
    series: Vec<Entry>,
    places: HashMap<SenderKey, Places>,
    /// The next number of a series.
    next: i64,
    /// Series that were not stored yet, by their places.
    unstored: Vec<usize>,
    /// Where to look for samples next.
    turn: usize,
}

/// A series with what it is stored under.
#[derive(Debug)]
struct Entry {
    number: i64,
    sender: SenderKey,
    subject: Subject,
    series: Series,
}

/// Where the series of a sender are.
#[derive(Debug, Default)]
struct Places {
    sender: Option<usize>,
    peers: HashMap<PeerName, usize>,
    workers: HashMap<WorkerKey, usize>,
}

/// A series that was stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSeries {
    /// Its number.
    pub number: i64,
    /// Whose.
    pub sender: SenderKey,
    /// Whose of theirs.
    pub subject: Subject,
}

/// What has changed, to be stored together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// `None` is to be deleted.
    pub documents: Vec<(SenderKey, Key, Option<Document>)>,
    /// New ones.
    pub series: Vec<StoredSeries>,
    /// By the numbers of their series.
    pub samples: Vec<(i64, Sample)>,
}

impl Board {
    /// What was stored before, without series.
    #[must_use]
    pub fn restore(
        now: Now,
        documents: impl IntoIterator<Item = (SenderKey, Key, Document)>,
    ) -> Self {
        Self {
            state: State::restore(now, documents),
            ..Self::default()
        }
    }

    /// A series that was stored before, with its latest samples.
    pub fn restore_series(&mut self, now: Now, stored: StoredSeries, samples: &[Sample]) {
        self.next = self.next.max(stored.number + 1);
        self.insert(Entry {
            number: stored.number,
            sender: stored.sender,
            subject: stored.subject,
            series: Series::restored(now.unix_ms, samples),
        });
    }

    /// A sender that is expected, so that one that never connected is shown as down.
    pub fn expect(&mut self, now: Now, key: SenderKey) {
        self.state.expect(now, key);
    }

    /// A sender introduces itself; see [`State::hello`].
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn hello(&mut self, now: Now, hello: &Hello) -> Result<Session, Refusal> {
        self.state.hello(now, hello)
    }

    /// A sender tells something.
    pub fn event(&mut self, now: Now, session: &Session, event: &Numbered) -> Outcome {
        let outcome = self.state.event(now, session, event);
        for (sender, done) in self.state.take_work() {
            if let Some(place) = self.place(now, &sender, done.subject) {
                // Exact enough for a hashrate.
                #[allow(clippy::cast_precision_loss)]
                let hashes = done.hashes as f64;
                let series = &mut self.series[place].series;
                series.add(done.from_ms, now.unix_ms, hashes);
            }
        }
        outcome
    }

    /// A sender has nothing to tell.
    pub fn heartbeat(&mut self, now: Now, session: &Session) -> Outcome {
        self.state.heartbeat(now, session)
    }

    /// A sender's connection has ended.
    pub fn disconnected(&mut self, now: Now, session: &Session) {
        self.state.disconnected(now, session);
    }

    /// Nobody listened until now: who is connected may have said something.
    pub fn excuse_silence(&mut self, now: Now) {
        self.state.excuse_silence(now);
    }

    /// What is known of senders.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// A hashrate, in H/s; nothing where too little is known.
    #[must_use]
    pub fn hashrate(
        &self,
        now: Now,
        sender: &SenderKey,
        of: Of<'_>,
        window: Window,
    ) -> Option<f64> {
        let series = self.find(sender, of)?;
        series.series.hashrate(now.unix_ms, window)
    }

    /// Samples that are held in memory, the oldest first: an hour of minutes and a day of ten minutes.
    #[must_use]
    pub fn recent(&self, sender: &SenderKey, of: Of<'_>, period: Period) -> Vec<Sample> {
        let series = self.find(sender, of).into_iter();
        series
            .flat_map(|entry| entry.series.samples(period))
            .collect()
    }

    /// The number under which samples are stored; see `receiver::History`.
    #[must_use]
    pub fn series_number(&self, sender: &SenderKey, of: Of<'_>) -> Option<i64> {
        self.find(sender, of).map(|entry| entry.number)
    }

    /// The numbers of all series.
    pub fn series_numbers(&self) -> impl Iterator<Item = i64> {
        self.series.iter().map(|entry| entry.number)
    }

    /// What has changed since the last time. Of samples it looks for those of so many series, which are others each time.
    pub fn take_changes(&mut self, now: Now, series: usize) -> Changes {
        let mut changes = Changes {
            documents: self.state.take_changes(),
            ..Changes::default()
        };
        for place in std::mem::take(&mut self.unstored) {
            let entry = &self.series[place];
            changes.series.push(StoredSeries {
                number: entry.number,
                sender: entry.sender.clone(),
                subject: entry.subject.clone(),
            });
        }
        let count = self.series.len();
        for _ in 0..series.min(count) {
            self.turn = (self.turn + 1) % count;
            let Entry { number, series, .. } = &mut self.series[self.turn];
            let samples = series.take_samples(now.unix_ms).into_iter();
            changes
                .samples
                .extend(samples.map(|sample| (*number, sample)));
        }
        changes
    }

    /// The same of all series, and those samples that are not over: nothing follows.
    pub fn take_all(&mut self) -> Changes {
        let end = Now {
            unix_ms: u64::MAX,
            instant: std::time::Instant::now(),
        };
        self.take_changes(end, usize::MAX)
    }

    fn find(&self, sender: &SenderKey, of: Of<'_>) -> Option<&Entry> {
        let place = self.places.get(sender)?.find(of)?;
        self.series.get(place)
    }

    /// The series of a subject; a new one where there is room.
    fn place(&mut self, now: Now, sender: &SenderKey, subject: Subject) -> Option<usize> {
        if let Some(places) = self.places.get(sender) {
            let found = places.find(Of::from(&subject));
            if found.is_some() || places.len() >= MOST_SERIES {
                return found;
            }
        }
        let number = self.next;
        self.next += 1;
        self.unstored.push(self.series.len());
        Some(self.insert(Entry {
            number,
            sender: sender.clone(),
            subject,
            series: Series::new(now.unix_ms),
        }))
    }

    fn insert(&mut self, entry: Entry) -> usize {
        let place = self.series.len();
        let places = self.places.entry(entry.sender.clone()).or_default();
        match entry.subject.clone() {
            Subject::Sender => places.sender = Some(place),
            Subject::Peer(name) => drop(places.peers.insert(name, place)),
            Subject::Worker(key) => drop(places.workers.insert(key, place)),
        }
        self.series.push(entry);
        place
    }
}

/// Whose hashrate is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Of<'a> {
    /// The sender's own sums.
    Sender,
    /// A peer's.
    Peer(&'a PeerName),
    /// A worker's.
    Worker(&'a WorkerKey),
}

impl<'a> From<&'a Subject> for Of<'a> {
    fn from(subject: &'a Subject) -> Self {
        match subject {
            Subject::Sender => Self::Sender,
            Subject::Peer(name) => Self::Peer(name),
            Subject::Worker(key) => Self::Worker(key),
        }
    }
}

impl Places {
    fn find(&self, of: Of<'_>) -> Option<usize> {
        match of {
            Of::Sender => self.sender,
            Of::Peer(name) => self.peers.get(name).copied(),
            Of::Worker(key) => self.workers.get(key).copied(),
        }
    }

    fn len(&self) -> usize {
        self.peers.len() + self.workers.len()
    }
}
