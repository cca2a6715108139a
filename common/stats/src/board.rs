//! What a stats service shows: the [`State`] and the hashrates of everybody in it.
//!
//! It is driven by one writer and read by pages, API and metrics. Like the state it has no clock and no I/O.

mod forget;

use std::collections::{HashMap, VecDeque};

use stats_events::{Hello, Numbered};

use crate::series::{Period, Sample, Series, Window};
use crate::state::{
    ChannelId, Document, Done, Key, Now, Outcome, PeerName, Refusal, SenderKey, Session, State,
    Subject, WorkerKey,
};

/// Series of one sender; whoever comes later has no hashrate of its own.
const MOST_SERIES: usize = 200_000;

/// Open channels of one sender that have a hashrate; those that work later have none.
const MOST_CHANNELS: usize = 20_000;

/// Everything that is known, with hashrates.
#[derive(Debug, Default)]
pub struct Board {
    state: State,
    series: Vec<Entry>,
    places: HashMap<SenderKey, Places>,
    /// Of open channels, which end with their connections and are not stored.
    channels: HashMap<SenderKey, HashMap<ChannelId, Series>>,
    /// The next number of a series.
    next: i64,
    /// Series that were not stored yet, by their places.
    unstored: Vec<usize>,
    /// Where to look for samples next.
    turn: usize,
    /// Numbers of series that are still stored and of nobody.
    forgotten: VecDeque<i64>,
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
        if self.state.sender(&stored.sender).is_none() {
            // Its sender was forgotten shortly before the service ended.
            self.forgotten.push_back(stored.number);
            return;
        }
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
        let session = self.state.hello(now, hello);
        self.forget_channels();
        self.forget_series();
        session
    }

    /// A sender tells something.
    pub fn event(&mut self, now: Now, session: &Session, event: &Numbered) -> Outcome {
        let outcome = self.state.event(now, session, event);
        for (sender, done) in self.state.take_work() {
            if let Some(channel) = done.channel {
                self.work_on(now, &sender, channel, &done);
            }
            let (from_ms, hashes) = (done.from_ms, hashes(&done));
            if let Some(place) = self.place(now, &sender, done.subject) {
                let series = &mut self.series[place].series;
                series.add(from_ms, now.unix_ms, hashes);
            }
        }
        // After its last work.
        self.forget_channels();
        outcome
    }

    fn work_on(&mut self, now: Now, sender: &SenderKey, channel: ChannelId, done: &Done) {
        let channels = match self.channels.get_mut(sender) {
            Some(channels) => channels,
            None => self.channels.entry(sender.clone()).or_default(),
        };
        if channels.len() < MOST_CHANNELS || channels.contains_key(&channel) {
            let series = channels.entry(channel);
            let series = series.or_insert_with(|| Series::new(now.unix_ms));
            series.add(done.from_ms, now.unix_ms, hashes(done));
        }
    }

    fn forget_channels(&mut self) {
        for (sender, channel) in self.state.take_ended() {
            if let Some(channels) = self.channels.get_mut(&sender) {
                channels.remove(&channel);
            }
        }
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

    /// The same of a channel, since it was opened.
    #[must_use]
    pub fn channel_hashrate(
        &self,
        now: Now,
        sender: &SenderKey,
        channel: ChannelId,
        window: Window,
    ) -> Option<f64> {
        let series = self.channels.get(sender)?.get(&channel)?;
        series.hashrate(now.unix_ms, window)
    }

    /// The hashrates of one sender, for whoever asks for many.
    #[must_use]
    pub fn rates(&self, sender: &SenderKey) -> Rates<'_> {
        Rates {
            places: self.places.get(sender),
            series: &self.series,
        }
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

/// Hashrates of one sender.
#[derive(Debug, Clone, Copy)]
pub struct Rates<'a> {
    places: Option<&'a Places>,
    series: &'a [Entry],
}

impl Rates<'_> {
    /// As [`Board::hashrate`].
    #[must_use]
    pub fn hashrate(&self, now: Now, of: Of<'_>, window: Window) -> Option<f64> {
        let place = self.places?.find(of)?;
        let series = &self.series.get(place)?.series;
        series.hashrate(now.unix_ms, window)
    }
}

/// Exact enough for a hashrate.
#[allow(clippy::cast_precision_loss)]
fn hashes(done: &Done) -> f64 {
    done.hashes as f64
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use stats_events::{Counters, Event, Peer, PeerEnd, ServiceState, Work, WorkerState};

    use super::*;

    const START_MS: u64 = 1_700_000_000_000;

    fn at(seconds: u64) -> Now {
        thread_local!(static START: Instant = Instant::now());
        Now {
            instant: START.with(|start| *start) + Duration::from_secs(seconds),
            unix_ms: START_MS + seconds * 1000,
        }
    }

    fn hello(instance: &str) -> Hello {
        Hello {
            version: 1,
            role: "pool".into(),
            name: "main".into(),
            instance_id: instance.into(),
            started_at_ms: 5_000,
            software: String::new(),
            network: None,
            heartbeat_ms: 5000,
            token: None,
        }
    }

    fn key() -> SenderKey {
        SenderKey {
            role: "pool".into(),
            name: "main".into(),
        }
    }

    fn rig() -> WorkerKey {
        WorkerKey {
            account: "alice".into(),
            worker: "rig".into(),
        }
    }

    /// What a sender says whose clock is far from the service's: so much work `seconds` after it was started.
    fn worker(sequence: u64, seconds: u64, hashes: u64) -> Numbered {
        let counters = Counters {
            work: Work(hashes.into()),
            ..Counters::default()
        };
        Numbered {
            sequence,
            at_ms: 5_000 + seconds * 1000,
            event: Event::Worker(WorkerState {
                account: "alice".into(),
                worker: "rig".into(),
                since_ms: 5_000,
                counters,
                ..WorkerState::default()
            }),
        }
    }

    fn near(board: &Board, now: Now, window: Window, expected: f64) {
        let rig = rig();
        let seen = board.hashrate(now, &key(), Of::Worker(&rig), window);
        let near = seen.is_some_and(|seen| (seen / expected - 1.0).abs() < 0.02);
        assert!(near, "{window:?}: {seen:?}, not {expected}");
    }

    #[test]
    fn the_first_report_is_of_the_time_since_the_worker_began_by_the_senders_clock() {
        let mut board = Board::default();
        let session = board.hello(at(0), &hello("1")).unwrap();
        board.event(at(0), &session, &worker(1, 600, 600_000));
        near(&board, at(0), Window::TenMinutes, 1000.0);
    }

    #[test]
    fn an_hour_without_a_link_is_no_peak() {
        let mut board = Board::default();
        let session = board.hello(at(0), &hello("1")).unwrap();
        board.event(at(0), &session, &worker(1, 600, 600_000));
        let session = board.hello(at(3600), &hello("1")).unwrap();
        board.event(at(3600), &session, &worker(2, 4200, 4_200_000));
        for window in Window::ALL {
            near(&board, at(3600), window, 1000.0);
        }
    }

    #[test]
    fn a_step_of_the_senders_clock_changes_no_hashrate() {
        let mut board = Board::default();
        let session = board.hello(at(0), &hello("1")).unwrap();
        let mut clocks = [600, 0, 1_000_000, 5].into_iter().cycle();
        for number in 0..120 {
            let said = worker(number + 1, clocks.next().unwrap(), 600_000 + number * 5000);
            board.event(at(number * 5), &session, &said);
        }
        near(&board, at(595), Window::Minute, 1000.0);
        near(&board, at(595), Window::TenMinutes, 1000.0);
    }

    #[test]
    fn after_a_restart_of_the_service_the_time_since_it_was_last_told_counts() {
        let mut board = Board::default();
        let session = board.hello(at(0), &hello("1")).unwrap();
        board.event(at(0), &session, &worker(1, 3600, 3_600_000));
        let changes = board.take_all();
        let documents = changes.documents.into_iter();
        let documents =
            documents.filter_map(|(sender, key, document)| Some((sender, key, document?)));
        let mut board = Board::restore(at(1800), documents);
        for stored in changes.series {
            let samples = changes.samples.iter();
            let samples = samples.filter(|(number, _)| *number == stored.number);
            let samples: Vec<_> = samples.map(|(_, sample)| *sample).collect();
            board.restore_series(at(1800), stored, &samples);
        }
        let session = board.hello(at(1800), &hello("1")).unwrap();
        assert_eq!(session.last_sequence, 1);
        board.event(at(1800), &session, &worker(2, 5400, 5_400_000));
        near(&board, at(1800), Window::TenMinutes, 1000.0);
        near(&board, at(1800), Window::Hour, 1000.0);
        // The series are the stored ones, so there is none to be stored anew.
        assert_eq!(board.take_changes(at(1800), 10).series, []);
    }

    #[test]
    fn a_channel_has_a_hashrate_of_its_own_until_it_ends() {
        let mut board = Board::default();
        let session = board.hello(at(0), &hello("1")).unwrap();
        let connected = Event::PeerConnected(Peer {
            peer: 7,
            protocol: "sv2-mining".into(),
            ..Peer::default()
        });
        let state = |channel: u32, seconds: u64, hashes: u64, ended| {
            let Event::Worker(state) = worker(0, 0, hashes).event else {
                unreachable!()
            };
            let worker = format!("rig{}", channel % 2);
            let state = WorkerState {
                peer: 7,
                channel,
                worker,
                ended,
                ..state
            };
            (seconds, Event::Worker(state))
        };
        let told = [
            (0, connected),
            state(1, 600, 600_000, false),
            // The same worker on another channel, and another one on that.
            state(3, 600, 1_200_000, false),
            state(2, 600, 60_000, false),
            state(2, 600, 66_000, true),
        ];
        for (sequence, (seconds, event)) in (1..).zip(told) {
            let event = Numbered {
                sequence,
                at_ms: 5_000 + seconds * 1000,
                event,
            };
            board.event(at(seconds), &session, &event);
        }
        let rate = |board: &Board, channel| {
            let id = ChannelId { peer: 7, channel };
            board.channel_hashrate(at(600), &key(), id, Window::TenMinutes)
        };
        for (channel, expected) in [(1, 1000.0), (3, 2000.0)] {
            let seen = rate(&board, channel).unwrap();
            assert!((seen / expected - 1.0).abs() < 0.02, "{channel}: {seen}");
        }
        assert_eq!(rate(&board, 2), None, "it has ended");
        let end = Numbered {
            sequence: 9,
            at_ms: 605_000,
            event: Event::PeerDisconnected(PeerEnd {
                peer: 7,
                ..PeerEnd::default()
            }),
        };
        board.event(at(600), &session, &end);
        assert_eq!(rate(&board, 1), None);
        assert!(board.channels.values().all(HashMap::is_empty));
    }

    #[test]
    fn every_series_has_its_turn_and_is_stored_once() {
        let mut board = Board::default();
        let session = board.hello(at(0), &hello("1")).unwrap();
        board.event(at(0), &session, &worker(1, 600, 600_000));
        let service = Event::Service(ServiceState {
            counters: Counters {
                work: Work(600_000),
                ..Counters::default()
            },
            ..ServiceState::default()
        });
        let service = Numbered {
            sequence: 2,
            at_ms: 605_000,
            event: service,
        };
        board.event(at(0), &session, &service);
        let mut numbers = Vec::new();
        for _ in 0..2 {
            let changes = board.take_changes(at(3600), 1);
            numbers.extend(changes.series.iter().map(|series| series.number));
            let mut sampled: Vec<_> = changes.samples.iter().map(|(number, _)| *number).collect();
            sampled.dedup();
            assert_eq!(sampled.len(), 1);
        }
        assert_eq!(numbers, [0, 1]);
        assert!(board.take_changes(at(3600), 2).samples.is_empty());
    }
}
