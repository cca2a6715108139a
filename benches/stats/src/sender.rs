//! A sender that tells of many peers, evenly over time.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bench_pool::Result;
use stats_events::{
    Counters, Event, FrameReader, FromSender, FromService, Hello, Numbered, Peer, PeerState,
    VERSION, Work, WorkerState, decode, encode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

/// Times that something is told in a second.
const SLICES_PER_SECOND: u64 = 10;

/// What every worker accepts between two reports, in expected hashes: about 100 TH/s at five seconds.
const WORK: u128 = 500_000_000_000_000;

/// Longer than any commit takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// One connection to a service.
pub(crate) struct Sender {
    stream: TcpStream,
    frames: FrameReader,
    workers: u64,
    interval: u64,
    started_at_ms: u64,
    round: u64,
    sequence: u64,
    stored: u64,
    /// Numbers that were told, and when.
    told: VecDeque<(u64, Instant)>,
    longest: Duration,
}

impl Sender {
    /// Introduces itself.
    pub(crate) async fn start(stream: TcpStream, workers: u64, interval: u64) -> Result<Self> {
        let mut sender = Self {
            stream,
            frames: FrameReader::default(),
            workers,
            interval: interval.max(1),
            started_at_ms: now_ms(),
            round: 0,
            sequence: 0,
            stored: 0,
            told: VecDeque::new(),
            longest: Duration::ZERO,
        };
        let hello = Hello {
            version: VERSION,
            role: "pool".to_owned(),
            name: "bench".to_owned(),
            instance_id: "00".repeat(16),
            started_at_ms: sender.started_at_ms,
            software: String::new(),
            network: None,
            heartbeat_ms: 5000,
            token: None,
        };
        let mut bytes = Vec::new();
        encode(&FromSender::Hello(hello), &mut bytes)?;
        sender.stream.write_all(&bytes).await?;
        match timeout(PATIENCE, sender.next()).await?? {
            FromService::Welcome { .. } => Ok(sender),
            other => Err(format!("not welcome: {other:?}").into()),
        }
    }

    /// Tells of everybody so many times, each time in one interval; returns when all of it is stored.
    pub(crate) async fn rounds(&mut self, rounds: u64) -> Result<()> {
        let slices = self.interval * SLICES_PER_SECOND;
        let mut due = Instant::now();
        let mut bytes = Vec::new();
        for _ in 0..rounds {
            self.round += 1;
            for slice in 0..slices {
                bytes.clear();
                for worker in (slice..self.workers).step_by(usize::try_from(slices)?) {
                    self.tell(worker, &mut bytes)?;
                }
                self.told.push_back((self.sequence, Instant::now()));
                self.stream.write_all(&bytes).await?;
                due += Duration::from_millis(1000 / SLICES_PER_SECOND);
                while let Ok(message) = timeout_at(due, self.next()).await {
                    self.acknowledged(&message?);
                }
            }
        }
        while self.stored < self.sequence {
            let message = timeout(PATIENCE, self.next()).await??;
            self.acknowledged(&message);
        }
        Ok(())
    }

    /// Events that are stored.
    pub(crate) fn stored(&self) -> u64 {
        self.stored
    }

    /// The longest time from telling to the acknowledgement.
    pub(crate) fn longest(&self) -> Duration {
        self.longest
    }

    fn tell(&mut self, worker: u64, bytes: &mut Vec<u8>) -> Result<()> {
        let now_ms = now_ms();
        let shares = self.round * 2;
        let counters = Counters {
            submitted: shares,
            accepted: shares,
            work: Work(WORK * u128::from(self.round)),
            last_share_ms: Some(now_ms),
            ..Counters::default()
        };
        let mut events = Vec::new();
        if self.round == 1 {
            events.push(Event::PeerConnected(Peer {
                peer: worker,
                connected_at_ms: now_ms,
                address: format!("10.0.{}.{}:4321", worker / 250, worker % 250),
                protocol: "sv1".to_owned(),
                user_agent: Some("miner/1.0".to_owned()),
                ..Peer::default()
            }));
        }
        events.push(Event::Peer(PeerState {
            peer: worker,
            difficulty: Some(65_536.0),
            counters: counters.clone(),
            ..PeerState::default()
        }));
        events.push(Event::Worker(WorkerState {
            peer: worker,
            account: format!("account{}", worker / 10),
            worker: format!("rig{worker}"),
            since_ms: self.started_at_ms,
            difficulty: Some(65_536.0),
            counters,
            ..WorkerState::default()
        }));
        for event in events {
            self.sequence += 1;
            let numbered = Numbered {
                sequence: self.sequence,
                at_ms: now_ms,
                event,
            };
            encode(&FromSender::Event(numbered), bytes)?;
        }
        Ok(())
    }

    fn acknowledged(&mut self, message: &FromService) {
        let FromService::Ack { sequence } = message else {
            return;
        };
        self.stored = *sequence;
        while let Some((told, at)) = self.told.front()
            && told <= sequence
        {
            self.longest = self.longest.max(at.elapsed());
            self.told.pop_front();
        }
    }

    /// The next message; to drop the future loses nothing.
    async fn next(&mut self) -> Result<FromService> {
        loop {
            if let Some(frame) = self.frames.next_frame()? {
                return Ok(decode(frame)?);
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes).await? {
                0 => return Err("the service hung up".into()),
                count => self.frames.push(&bytes[..count]),
            }
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
