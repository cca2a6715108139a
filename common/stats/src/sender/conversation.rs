//! What a sender says to its service, without I/O: bytes, time and a source go in, bytes come out.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::io;
use std::time::{Duration, Instant};

use stats_events::{
    Event, FrameReader, FromSender, FromService, Hello, Numbered, PeerEnd, RefusalCode, decode,
    encode,
};

use super::Source;
use crate::Now;

/// Bytes that are to be written at which a look tells no more; what is left is told when these are written.
const ENOUGH_OUTPUT: usize = 1 << 20;

/// Bytes of events that are kept until they are acknowledged, beyond which the source is asked for no more.
pub(super) const ENOUGH_KEPT: usize = 4 << 20;

/// About what one of them takes.
const EVENT_SIZE: usize = 256;

/// How long a service may take to answer `Hello`, to take some of what is written, and to acknowledge.
const WELCOME_PATIENCE: Duration = Duration::from_secs(10);
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
const ACK_PATIENCE: Duration = Duration::from_secs(60);

/// Characters of a service's reason that are shown.
const MAX_REASON: usize = 200;

/// Why a connection has to end. Another is made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no connection within the time")]
    ConnectTimeout,
    #[error("it hung up")]
    Closed,
    #[error("it does not answer Hello")]
    NoWelcome,
    #[error("it takes nothing of what is sent")]
    TakesNothing,
    #[error("it acknowledges nothing")]
    AcknowledgesNothing,
    #[error("it breaks the protocol: {0}")]
    Frame(#[from] stats_events::Error),
    #[error("it speaks version {0}, which was not offered")]
    Version(u16),
    #[error("{code:?}: {reason:?}")]
    Refused { code: RefusalCode, reason: String },
}

/// A sender's side of the conversation, over all its connections.
#[derive(Debug)]
pub(super) struct Conversation {
    hello: Hello,
    interval: Duration,
    phase: Phase,
    out: Vec<u8>,
    written: usize,
    /// When there was last nothing to write, or some of it was taken.
    progress_at: Instant,
    reader: FrameReader,
    told: HashMap<Subject, Told>,
    /// What happens once, until it is acknowledged.
    kept: VecDeque<Kept>,
    kept_bytes: usize,
    /// Of the last event.
    sequence: u64,
    acknowledged: u64,
    /// Since when something is waiting to be acknowledged.
    waiting_since: Option<Instant>,
    looks: u64,
    /// In a round each subject is told at most once, so that a look that ends early is followed by one that goes on.
    round: u64,
    next_look: Instant,
    /// The last look told everything.
    complete: bool,
    scratch: Vec<u8>,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Away,
    Greeting { until: Instant },
    Open,
}

/// What a state is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Subject {
    Service,
    Template,
    /// Its address, hashed.
    Upstream(u64),
    /// Who a peer is.
    Introduction(u64),
    Peer(u64),
    Worker {
        peer: u64,
        channel: u32,
        /// Account and worker, hashed.
        name: u64,
    },
}

/// What a subject's state was when the service was last told of it.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    /// The event's hash; none if this connection has not told it.
    print: Option<u64>,
    /// In which round that was.
    round: u64,
    /// The look that last saw the subject.
    seen: u64,
}

/// An event that has to arrive.
#[derive(Debug)]
struct Kept {
    sequence: u64,
    frame: Vec<u8>,
}

impl Conversation {
    pub(super) fn new(hello: Hello, interval: Duration, now: Now) -> Self {
        Self {
            hello,
            interval,
            phase: Phase::Away,
            out: Vec::new(),
            written: 0,
            progress_at: now.instant,
            reader: FrameReader::default(),
            told: HashMap::new(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            sequence: 0,
            acknowledged: 0,
            waiting_since: None,
            looks: 0,
            round: 1,
            next_look: now.instant,
            complete: false,
            scratch: Vec::new(),
            hasher: RandomState::new(),
        }
    }

    /// A connection is there: `Hello` is to be written.
    pub(super) fn connected(&mut self, now: Now, network: Option<String>) {
        self.disconnected();
        self.hello.network = network;
        self.phase = Phase::Greeting {
            until: now.instant + WELCOME_PATIENCE,
        };
        self.progress_at = now.instant;
        self.say(&FromSender::Hello(self.hello.clone()));
    }

    /// There is no connection. What was told counts as not told, because nobody knows how much of it arrived.
    pub(super) fn disconnected(&mut self) {
        self.phase = Phase::Away;
        self.out = Vec::new();
        self.written = 0;
        self.reader = FrameReader::default();
        self.waiting_since = None;
        self.complete = false;
        for told in self.told.values_mut() {
            told.print = None;
            told.round = 0;
        }
    }

    pub(super) fn is_welcome(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether the service has acknowledged all that there is to tell.
    pub(super) fn is_done(&self) -> bool {
        self.is_welcome() && self.complete && self.acknowledged >= self.sequence
    }

    /// Bytes that are kept until they are acknowledged.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// What is to be written.
    pub(super) fn output(&self) -> &[u8] {
        &self.out[self.written..]
    }

    /// So many bytes of the output were taken.
    pub(super) fn written(&mut self, now: Now, bytes: usize) {
        self.written += bytes;
        self.progress_at = now.instant;
        if self.written == self.out.len() {
            self.written = 0;
            // A quiet sender owns no large buffer.
            if self.out.capacity() > ENOUGH_OUTPUT / 16 {
                self.out = Vec::new();
            } else {
                self.out.clear();
            }
        }
    }

    /// Bytes of the service's have come.
    pub(super) fn received(&mut self, now: Now, bytes: &[u8]) -> Result<(), Fault> {
        self.reader.push(bytes);
        while let Some(frame) = self.reader.next_frame()? {
            match decode(frame)? {
                FromService::Welcome {
                    version,
                    last_sequence,
                } => self.welcomed(now, version, last_sequence)?,
                FromService::Refused { code, reason } => {
                    let reason = reason.chars().take(MAX_REASON).collect();
                    return Err(Fault::Refused { code, reason });
                }
                FromService::Ack { sequence } => self.acked(now, sequence),
                FromService::Unknown => {}
            }
        }
        Ok(())
    }

    /// When [`tick`](Self::tick) has to be called.
    pub(super) fn deadline(&self) -> Instant {
        let writes = !self.output().is_empty();
        let acknowledged = self.waiting_since.map(|since| since + ACK_PATIENCE);
        let next = match self.phase {
            _ if writes => self.progress_at + WRITE_PATIENCE,
            Phase::Greeting { until } => until.min(self.next_look),
            Phase::Away | Phase::Open => self.next_look,
        };
        acknowledged.map_or(next, |at| at.min(next))
    }

    /// The deadline has come.
    pub(super) fn tick(&mut self, now: Now, source: &dyn Source) -> Result<(), Fault> {
        let passed = |since: Instant, patience| now.instant >= since + patience;
        if let Phase::Greeting { until } = self.phase
            && now.instant >= until
        {
            return Err(Fault::NoWelcome);
        }
        if !self.output().is_empty() && passed(self.progress_at, WRITE_PATIENCE) {
            return Err(Fault::TakesNothing);
        }
        if self
            .waiting_since
            .is_some_and(|since| passed(since, ACK_PATIENCE))
        {
            return Err(Fault::AcknowledgesNothing);
        }
        if now.instant < self.next_look || !self.output().is_empty() {
            return Ok(());
        }
        self.next_look = now.instant + self.interval;
        if self.is_welcome() {
            self.look(now, source);
        } else {
            self.take(now, source);
        }
        Ok(())
    }

    /// The role stops: everything is told once more, as soon as that can be.
    pub(super) fn look_at_last(&mut self, now: Now) {
        self.next_look = now.instant;
        self.complete = false;
    }

    fn welcomed(&mut self, now: Now, version: u16, last_sequence: u64) -> Result<(), Fault> {
        if version != self.hello.version {
            return Err(Fault::Version(version));
        }
        self.phase = Phase::Open;
        self.acked(now, last_sequence);
        self.sequence = self.sequence.max(last_sequence);
        for kept in &self.kept {
            self.out.extend_from_slice(&kept.frame);
        }
        self.progress_at = now.instant;
        self.waiting_since = (!self.kept.is_empty()).then_some(now.instant);
        self.next_look = now.instant;
        Ok(())
    }

    fn acked(&mut self, now: Now, sequence: u64) {
        self.acknowledged = self.acknowledged.max(sequence);
        let arrived = self.kept.partition_point(|kept| kept.sequence <= sequence);
        for kept in self.kept.drain(..arrived) {
            self.kept_bytes -= kept.frame.len();
        }
        self.waiting_since = (self.acknowledged < self.sequence).then_some(now.instant);
    }

    /// Tells what has changed.
    fn look(&mut self, now: Now, source: &dyn Source) {
        let before = self.out.len();
        if before == 0 {
            self.progress_at = now.instant;
        }
        self.looks += 1;
        self.complete = true;
        source.present(&mut |event| self.state(now, event));
        if self.complete {
            self.round += 1;
            let drained = self.take(now, source);
            self.forget(now, drained);
        } else {
            self.next_look = now.instant;
        }
        if self.out.len() == before {
            self.say(&FromSender::Heartbeat { at_ms: now.unix_ms });
        } else if self.waiting_since.is_none() {
            self.waiting_since = Some(now.instant);
        }
    }

    /// Tells a state if it is new, and if there is room.
    fn state(&mut self, now: Now, event: Event) {
        let Some(subject) = self.subject(&event) else {
            return;
        };
        let print = self.print(&event);
        let told = self.told.entry(subject).or_default();
        told.seen = self.looks;
        if told.round == self.round || told.print == Some(print) {
            return;
        }
        if self.out.len() >= ENOUGH_OUTPUT {
            self.complete = false;
            return;
        }
        told.print = Some(print);
        told.round = self.round;
        let event = self.number(now, event);
        self.say(&event);
    }

    /// Takes what has happened, as far as there is room to keep it. Gives whether that was all.
    fn take(&mut self, now: Now, source: &dyn Source) -> bool {
        let most = ENOUGH_KEPT.saturating_sub(self.kept_bytes) / EVENT_SIZE;
        if most == 0 {
            return false;
        }
        let events = source.happened(most);
        let all = events.len() < most;
        for event in events {
            self.keep(now, event);
        }
        all
    }

    /// Has an event arrive.
    fn keep(&mut self, now: Now, event: Event) {
        if let Event::PeerDisconnected(end) = &event {
            self.told.remove(&Subject::Introduction(end.peer));
        }
        let event = self.number(now, event);
        let start = self.out.len();
        self.say(&event);
        let frame = self.out[start..].to_vec();
        if !self.is_welcome() {
            self.out.truncate(start);
        }
        self.kept_bytes += frame.len();
        self.kept.push_back(Kept {
            sequence: self.sequence,
            frame,
        });
    }

    /// Forgets what is there no more. A peer whose end the source could not keep has gone all the same.
    fn forget(&mut self, now: Now, drained: bool) {
        let looks = self.looks;
        let mut gone = Vec::new();
        self.told.retain(|subject, told| {
            let here = told.seen == looks;
            match subject {
                Subject::Introduction(_) if !here && !drained => true,
                Subject::Introduction(peer) if !here => {
                    gone.push(*peer);
                    false
                }
                _ => here,
            }
        });
        for peer in gone {
            let end = PeerEnd {
                peer,
                disconnected_at_ms: now.unix_ms,
                reason: "unknown".to_owned(),
                ..PeerEnd::default()
            };
            self.keep(now, Event::PeerDisconnected(end));
        }
    }

    fn number(&mut self, now: Now, event: Event) -> FromSender {
        self.sequence += 1;
        FromSender::Event(Numbered {
            sequence: self.sequence,
            at_ms: now.unix_ms,
            event,
        })
    }

    fn say(&mut self, message: &FromSender) {
        // Texts and lists of an event are short; one that could not be written would be skipped by the service, too.
        let _ = encode(message, &mut self.out);
    }

    /// What the event is the state of; none if it is none.
    fn subject(&self, event: &Event) -> Option<Subject> {
        Some(match event {
            Event::Service(_) => Subject::Service,
            Event::Template(_) => Subject::Template,
            Event::Upstream(upstream) => Subject::Upstream(self.hasher.hash_one(&upstream.address)),
            Event::PeerConnected(peer) => Subject::Introduction(peer.peer),
            Event::Peer(peer) => Subject::Peer(peer.peer),
            Event::Worker(worker) => Subject::Worker {
                peer: worker.peer,
                channel: worker.channel,
                name: self.hasher.hash_one((&worker.account, &worker.worker)),
            },
            Event::PeerDisconnected(_) | Event::Block(_) | Event::Unknown => return None,
        })
    }

    /// Two events with the same one are taken for equal; there are 2^64 of them.
    fn print(&mut self, event: &Event) -> u64 {
        self.scratch.clear();
        let _ = encode(event, &mut self.scratch);
        self.hasher.hash_one(&self.scratch)
    }
}
