//! One SV1 miner's conversation, as a state machine: lines, channel events and the time go in; lines for the miner and
//! requests for the upstream come out. It never waits, reads no clock and opens no socket.
//!
//! The extranonce1 is our own, so `subscribe` is answered at once. The upstream channel opens when the miner has
//! subscribed and said who it is. What the upstream adds to the extranonce stands at the end of `coinb1`, so that another
//! prefix, channel or upstream is nothing more to the miner than a clean `mining.notify`.

mod answered;
mod channel;
mod difficulty;
mod headers;
mod leaving;
mod meter;
mod outage;
mod recent;
mod request;
mod share;
mod supply;
mod tally;
#[cfg(test)]
mod tests;
mod unanswered;
mod upstream;
mod wishes;
mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use stratum_v1::{ErrorCode, ExtranonceBytes, Id, write_error};
use work::{Difficulty, Hashrate, Target};

use crate::identity::Identity;
use crate::job::Work;
use crate::user_agents::UserAgents;
pub use answered::{Answered, RequestKind};
use difficulty::Control;
use leaving::Leaving;
pub use leaving::Left;
use meter::Meter;
use outage::Outage;
use recent::Recent;
use supply::Told;
pub use tally::{LossReason, RejectReason, Tally};
pub(crate) use unanswered::{Unanswered, is_up_to};
use upstream::{Route, Stage};
use wishes::Wishes;
use worker::Worker;
pub use worker::WorkerName;

/// Bytes of the translator's own extranonce1.
pub const EXTRANONCE1_SIZE: usize = 4;

/// What a session knows of the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes of extranonce2 that miners roll.
    pub extranonce2_size: u8,
    /// The bits of the version that miners may roll.
    pub version_mask: u32,
    /// What the upstream is told at opening when the miner suggests nothing.
    pub nominal_hashrate: Hashrate,
    /// The easiest target that a miner gets, whoever decides.
    pub max_target: Target,
    /// The hardest target that a miner gets. Its channel's may be harder.
    pub hardest_target: Target,
    /// Miners share channels, and each gets a difficulty for so many shares a minute; else each has a channel of its own.
    pub aggregate: Option<f64>,
    /// How a channel's identity is made of the miner's name.
    pub user_identity: Identity,
    /// What miners of one kind need.
    pub user_agents: UserAgents,
    /// When a share is answered.
    pub acknowledge: Acknowledge,
    /// Forwarded shares without an answer, at which no more lines are read.
    pub max_in_flight: usize,
    /// Malformed lines after which the miner is disconnected.
    pub max_malformed_lines: u32,
    /// Time to authorise.
    pub setup_timeout: Duration,
    /// Time without a line.
    pub idle_timeout: Duration,
    /// Time without an upstream, after which the miner is told; never if absent.
    pub outage_message: Option<Duration>,
}

/// When a miner is told what became of its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acknowledge {
    /// At once, after the translator's own check.
    #[default]
    Local,
    /// When the upstream has answered, with its reason.
    Upstream,
}

impl Settings {
    /// Whose channel a miner of this name works on, if it says whose. Miners of one account share a channel, where they
    /// share any.
    fn channel_identity(&self, name: &str) -> Option<Box<str>> {
        let identity = self.user_identity.of(name)?;
        let identity = match identity.split_once('.') {
            Some((account, _)) if self.aggregate.is_some() => account.into(),
            _ => identity,
        };
        (!identity.is_empty()).then_some(identity)
    }

    /// What a miner of this name is called on a channel that it shares.
    fn worker_name(&self, name: &str) -> Option<WorkerName> {
        self.aggregate?;
        let identity = self.user_identity.of(name)?;
        if let Some((_, worker)) = identity.split_once('.') {
            return WorkerName::new(worker);
        }
        // The identity is an account alone: then what is not the account in the miner's own name is the worker.
        match name.split_once('.') {
            Some((account, worker)) if *account == *identity => WorkerName::new(worker),
            _ if *name == *identity => None,
            _ => WorkerName::new(name),
        }
    }
}

/// The time, given to the session by whoever drives it.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For what is due after some time.
    pub instant: Instant,
}

/// What a session wants done, in order.
#[derive(Debug, Default)]
pub struct Output {
    /// Lines for the miner.
    pub bytes: Vec<u8>,
    /// For the upstream.
    pub requests: Vec<Request>,
    /// For the upstream that the miner is moved away from.
    pub farewells: Vec<Request>,
    /// What `bytes` answers.
    pub answered: Answered,
    /// The connection shall end, after `bytes` have been sent.
    pub end: Option<EndReason>,
}

impl Output {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
            && self.requests.is_empty()
            && self.farewells.is_empty()
            && self.end.is_none()
    }

    fn for_route(&mut self, route: Route) -> &mut Vec<Request> {
        match route {
            Route::Present => &mut self.requests,
            Route::Leaving => &mut self.farewells,
        }
    }
}

/// What a session asks of its upstream connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// A channel. The answer comes as [`ChannelEvent::Opened`] or [`ChannelEvent::Refused`].
    Open(OpenChannel),
    /// A share.
    Submit(ShareSubmission),
    /// The miner's hashrate is not what the upstream thinks.
    Update {
        /// The channel.
        channel_id: u32,
        /// The hashrate seen.
        hashrate: Hashrate,
        /// The easiest target accepted.
        max_target: Target,
    },
    /// The channel is not needed any more.
    Close {
        /// The channel.
        channel_id: u32,
    },
}

/// SV2 `OpenExtendedMiningChannel`.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenChannel {
    /// Who mines; at most 255 bytes.
    pub user_identity: Box<str>,
    /// What the miner is expected to do.
    pub hashrate: Hashrate,
    /// The easiest target accepted.
    pub max_target: Target,
    /// Bytes of extranonce that are needed here.
    pub min_extranonce_size: u16,
}

/// SV2 `SubmitSharesExtended`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareSubmission {
    /// The channel.
    pub channel_id: u32,
    /// Counts up by one a share.
    pub sequence_number: u32,
    /// The upstream's id of the job.
    pub job_id: u32,
    /// The header's nonce.
    pub nonce: u32,
    /// The header's time.
    pub ntime: u32,
    /// The header's version, rolled bits included.
    pub version: u32,
    /// Everything after the upstream's prefix.
    pub extranonce: ExtranonceBytes,
    /// Who found it, where miners share the channel.
    pub worker: Option<WorkerName>,
    /// It is a block, and whatever can wait waits for it.
    pub solves_block: bool,
}

impl Request {
    /// Whether somebody waits for what comes of it, so that it should not wait for others to be written with it.
    pub(crate) fn is_urgent(&self) -> bool {
        match self {
            Self::Open(_) => true,
            Self::Submit(share) => share.solves_block,
            Self::Update { .. } | Self::Close { .. } => false,
        }
    }
}

/// What a session is told about its upstream.
#[derive(Debug, Clone)]
pub enum ChannelEvent {
    /// An upstream connection is ready to open channels.
    UpstreamUp,
    /// The upstream connection, and any channel on it, is gone.
    UpstreamDown,
    /// The channel is open; its work follows.
    Opened {
        /// The upstream's id of it.
        channel_id: u32,
        /// Bytes of extranonce after the upstream's prefix.
        extranonce_size: u16,
    },
    /// The channel was refused, with the upstream's code.
    Refused(String),
    /// New work; earlier work that was not taken up is skipped.
    Work(Work),
    /// The upstream accepted so many shares, up to this sequence number.
    Accepted {
        /// The last one accepted.
        last_sequence_number: u32,
        /// How many.
        count: u64,
    },
    /// The upstream refused a share.
    Rejected {
        /// Which.
        sequence_number: u32,
        /// Why.
        reason: RejectReason,
    },
    /// The upstream closed the channel.
    Closed(String),
}

/// Why a session ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The miner did not authorise in time.
    SetupTimeout,
    /// The miner was silent for too long.
    Idle,
    /// More malformed lines than are tolerated.
    MalformedLines,
    /// A line longer than is accepted.
    OversizedLine,
}

/// The conversation with one miner.
#[derive(Debug)]
pub struct Session {
    settings: Arc<Settings>,
    extranonce1: [u8; EXTRANONCE1_SIZE],
    started: Instant,
    last_line: Instant,
    malformed_lines: u32,
    subscribed: bool,
    /// The miner has gone.
    left: bool,
    /// What the miner calls itself, until that is taken for the status.
    user_agent: Option<Box<str>>,
    /// Names that authorised; the first is the channel's.
    workers: Vec<Worker>,
    /// Bits that the miner asked for with `mining.configure`; not yet narrowed by what a job allows.
    negotiated_mask: Option<u32>,
    wishes: Wishes,
    /// Not there before a channel is asked for.
    meter: Option<Box<Meter>>,
    control: Control,
    stage: Stage,
    /// Boxed: it is rarely there.
    leaving: Option<Box<Leaving>>,
    channels_opened: u32,
    outage: Outage,
    told: Told,
    recent: Recent,
    tally: Tally,
    notifications: u64,
}

impl Session {
    /// A session of a miner that has just connected, while no upstream is known to be there.
    pub fn new(now: Now, extranonce1: [u8; EXTRANONCE1_SIZE], settings: Arc<Settings>) -> Self {
        Self {
            settings,
            extranonce1,
            started: now.instant,
            last_line: now.instant,
            malformed_lines: 0,
            subscribed: false,
            left: false,
            user_agent: None,
            workers: Vec::new(),
            negotiated_mask: None,
            wishes: Wishes::default(),
            meter: None,
            control: Control::default(),
            stage: Stage::NoUpstream,
            leaving: None,
            channels_opened: 0,
            outage: Outage::begun(now.instant, now),
            told: Told::default(),
            recent: Recent::default(),
            tally: Tally::default(),
            notifications: 0,
        }
    }

    /// A line came that is longer than is accepted.
    pub fn handle_oversized_line(&mut self, _now: Now, out: &mut Output) {
        write_error(&mut out.bytes, Id::NULL, ErrorCode::Other, "line too long");
        out.end = Some(EndReason::OversizedLine);
    }

    /// The time of [`Session::next_deadline`] has come, or may have.
    pub fn on_deadline(&mut self, now: Now, out: &mut Output) {
        let (deadline, reason) = self.silence_deadline();
        if now.instant >= deadline {
            out.end = Some(reason);
            return;
        }
        self.tell_of_outage(now, out);
        self.upstream_is_due(now, out);
        self.tick(now, out);
    }

    /// When [`Session::on_deadline`] is to be called.
    pub fn next_deadline(&self) -> Instant {
        let (silence, _) = self.silence_deadline();
        [
            self.upstream_deadline(),
            self.difficulty_deadline(),
            self.outage_deadline(),
        ]
        .into_iter()
        .flatten()
        .fold(silence, Instant::min)
    }

    /// The miner is not read now, so that its silence is ours.
    pub fn not_listening(&mut self, now: Now) {
        self.last_line = now.instant;
    }

    /// Whether lines may be handled: at the bound of unanswered shares the miner has to wait.
    pub fn wants_lines(&self) -> bool {
        self.in_flight() < self.settings.max_in_flight
    }

    /// Whether the miner waits for the pool's answers to its shares.
    pub fn owes_answers(&self) -> bool {
        self.settings.acknowledge == Acknowledge::Upstream && self.in_flight() > 0
    }

    /// The miner has gone: there is nothing more to do than to hear what became of its shares.
    pub fn miner_has_left(&mut self) {
        self.left = true;
    }

    /// Whether the miner is told, or can go on or go for good, only when the pool has answered its shares.
    pub fn awaits_answers(&self) -> bool {
        self.left || self.settings.acknowledge == Acknowledge::Upstream || !self.wants_lines()
    }

    /// What became of this miner's shares so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// How many `mining.notify` it was sent.
    pub fn notifications(&self) -> u64 {
        self.notifications
    }

    /// What the miner calls itself, if it has said so since the last call.
    pub fn take_user_agent(&mut self) -> Option<Box<str>> {
        self.user_agent.take()
    }

    /// The name that the miner mines under, once it is known.
    pub fn worker(&self) -> Option<&str> {
        self.workers.first().map(|worker| &*worker.name)
    }

    /// The difficulty that the miner was told last.
    pub fn difficulty(&self) -> Option<Difficulty> {
        self.told.difficulty
    }

    fn silence_deadline(&self) -> (Instant, EndReason) {
        let idle = self.last_line + self.settings.idle_timeout;
        let setup = self.started + self.settings.setup_timeout;
        if self.workers.is_empty() && setup < idle {
            (setup, EndReason::SetupTimeout)
        } else {
            (idle, EndReason::Idle)
        }
    }
}
