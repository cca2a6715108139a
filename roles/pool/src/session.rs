//! The conversation with one client, without I/O: messages and time go in, messages and effects come out.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ledger::Entry;
use stratum_core::common_messages_sv2::{Protocol, SetupConnection};
use sv2_connection::{
    Frame, FrameBuffer, MalformedMessage, Refusal, accept_setup, check_setup, refuse_setup,
};
use work::{Hashrate, Target};

use crate::{
    accounts::Accounts,
    acknowledge::Owner,
    board::Work,
    channel::Solved,
    extranonce::Prefixes,
    limits::{Allowance, Places},
    mining::Mining,
    payee::Payees,
    peers::{Introduction, Record, WorkerRecord},
    shares::Rejection,
};

/// `SetupConnection` flags of the mining protocol (SV2 5.3.1).
const REQUIRES_STANDARD_JOBS: u32 = 1;
const REQUIRES_VERSION_ROLLING: u32 = 1 << 2;

/// The error code of a set-up that is refused because there is nothing to work on. SV2 has none for it.
const NO_TEMPLATES: Refusal = Refusal {
    code: "no-templates",
    flags: 0,
};

/// A session is in set-up until the client has introduced itself; only then it has channels.
#[derive(Debug)]
pub(crate) enum Session {
    Setup(Setup),
    Mining(Box<Mining>),
}

#[derive(Debug)]
pub(crate) struct Setup {
    resources: Arc<Resources>,
    work: Option<Arc<Work>>,
    deadline: Instant,
    /// There have been no templates for too long.
    outage: bool,
}

impl Session {
    pub(crate) fn new(resources: Arc<Resources>, accepted_at: Instant) -> Self {
        let deadline = accepted_at + resources.settings.setup_timeout;
        Self::Setup(Setup {
            resources,
            work: None,
            deadline,
            outage: false,
        })
    }

    /// Takes one message of the client.
    pub(crate) fn handle(
        &mut self,
        frame: Frame<'_>,
        now: Instant,
        out: &mut FrameBuffer,
    ) -> Result<(), Fault> {
        match self {
            Self::Setup(setup) => {
                let mining = setup.handle(frame, now, out)?;
                *self = Self::Mining(Box::new(mining));
                Ok(())
            }
            Self::Mining(mining) => {
                let had_channel = mining.has_channels();
                let result = mining.handle(frame, now, out);
                let has_channel = had_channel || mining.has_channels();
                mining.patience.heard(has_channel, now);
                result
            }
        }
    }

    /// Until now the driver had its reasons not to read what the client may have said.
    pub(crate) fn not_listening(&mut self, now: Instant) {
        if let Self::Mining(mining) = self {
            mining.patience.excuse(now);
        }
    }

    /// Takes the newest work; older that was skipped is of no interest.
    pub(crate) fn work_changed(
        &mut self,
        work: Arc<Work>,
        now: Instant,
        out: &mut FrameBuffer,
    ) -> Result<(), Fault> {
        match self {
            Self::Setup(setup) => setup.work = Some(work),
            Self::Mining(mining) => mining.work_changed(work, now, out)?,
        }
        Ok(())
    }

    /// When [`tick`](Self::tick) has to be called.
    pub(crate) fn deadline(&self) -> Instant {
        match self {
            Self::Setup(setup) => setup.deadline,
            Self::Mining(mining) => mining.deadline(),
        }
    }

    /// The deadline has come.
    pub(crate) fn tick(&mut self, now: Instant, out: &mut FrameBuffer) -> Result<(), Fault> {
        match self {
            Self::Setup(setup) if now >= setup.deadline => Err(Fault::SetupTimeout),
            Self::Setup(_) => Ok(()),
            Self::Mining(mining) => mining.tick(now, out),
        }
    }

    /// The client should leave: it is asked to reconnect, and has a moment for what is under way. Whoever has not set up
    /// a connection has nothing to lose by its end.
    pub(crate) fn drain(
        &mut self,
        why: Farewell,
        now: Instant,
        out: &mut FrameBuffer,
    ) -> Result<(), Fault> {
        match self {
            Self::Setup(_) => Err(why.into()),
            Self::Mining(mining) => Ok(mining.drain(why, now, out)?),
        }
    }

    /// There have been no templates for too long, or there are again. Clients should leave, so that they find another
    /// pool; new ones are told why they are not taken.
    pub(crate) fn outage(
        &mut self,
        lasts: bool,
        now: Instant,
        out: &mut FrameBuffer,
    ) -> Result<(), Fault> {
        match self {
            Self::Setup(setup) => {
                setup.outage = lasts;
                Ok(())
            }
            Self::Mining(_) if lasts => self.drain(Farewell::NoTemplates, now, out),
            Self::Mining(_) => Ok(()),
        }
    }

    /// Ends a turn under this number: difficulties follow what it showed. What it accepted is to be booked; none means
    /// that nothing was. [`durable`](Self::durable) with this number acknowledges it when that is done.
    pub(crate) fn end_turn(
        &mut self,
        number: u64,
        now: Instant,
        out: &mut FrameBuffer,
    ) -> Result<Vec<Entry>, Fault> {
        match self {
            Self::Setup(_) => Ok(Vec::new()),
            Self::Mining(mining) => mining.end_turn(number, now, out),
        }
    }

    /// What was accepted in turns up to this number is durable, and acknowledged.
    pub(crate) fn durable(&mut self, number: u64, out: &mut FrameBuffer) -> Result<(), Fault> {
        match self {
            Self::Setup(_) => Ok(()),
            Self::Mining(mining) => Ok(mining.durable(number, out)?),
        }
    }

    /// Blocks found since the last call.
    pub(crate) fn take_found(&mut self) -> Vec<Found> {
        match self {
            Self::Setup(_) => Vec::new(),
            Self::Mining(mining) => std::mem::take(&mut mining.found),
        }
    }

    /// Counts since the last call.
    pub(crate) fn take_tally(&mut self) -> Tally {
        match self {
            Self::Setup(_) => Tally::default(),
            Self::Mining(mining) => std::mem::take(&mut mining.tally),
        }
    }

    /// What the client said of itself, once, if a stats service is to be told.
    pub(crate) fn take_introduction(&mut self) -> Option<Box<Introduction>> {
        match self {
            Self::Setup(_) => None,
            Self::Mining(mining) => mining.introduction.take(),
        }
    }

    /// How its workers do now.
    pub(crate) fn record(&self) -> Record {
        match self {
            Self::Setup(_) => Record::default(),
            Self::Mining(mining) => mining.record(),
        }
    }

    /// Workers of channels that were closed since the last call.
    pub(crate) fn take_ended(&mut self) -> Vec<WorkerRecord> {
        match self {
            Self::Setup(_) => Vec::new(),
            Self::Mining(mining) => std::mem::take(&mut mining.ended),
        }
    }

    /// What its channels are believed to do together.
    pub(crate) fn hashrate(&self) -> Hashrate {
        match self {
            Self::Setup(_) => Hashrate::ZERO,
            Self::Mining(mining) => mining.hashrate(),
        }
    }

    /// Open channels.
    pub(crate) fn channel_count(&self) -> u64 {
        match self {
            Self::Setup(_) => 0,
            Self::Mining(mining) => mining.channel_count(),
        }
    }
}

/// What a session may use, shared by all of them and read-only.
#[derive(Debug)]
pub(crate) struct Resources {
    pub settings: Settings,
    pub prefixes: Prefixes,
    pub accounts: Accounts,
    pub payees: Arc<Payees>,
    pub places: Arc<Places>,
}

/// The parts of the configuration that a session asks for.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub shares_per_minute: f64,
    /// The easiest target that is handed out.
    pub pool_minimum: Target,
    pub channels_per_connection: usize,
    pub groups_per_connection: usize,
    pub setup_timeout: Duration,
    /// How long clients have to leave by themselves when the pool stops.
    pub drain: Duration,
    pub allowance: Allowance,
    /// A stats service is told what happens.
    pub told: bool,
}

/// Why a client should leave, though it did nothing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// The pool stops.
    Stopping,
    /// There have been no templates for too long.
    NoTemplates,
}

impl From<Farewell> for Fault {
    fn from(why: Farewell) -> Self {
        match why {
            Farewell::Stopping => Self::Stopping,
            Farewell::NoTemplates => Self::NoTemplates,
        }
    }
}

/// Why the connection has to end. The client's fault, all but the last two.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Connection(#[from] sv2_connection::Error),
    #[error("malformed message: {0}")]
    Malformed(#[from] MalformedMessage),
    #[error(
        "message type {message_type:#04x} (extension {extension_type:#06x}) is not expected here"
    )]
    Unexpected {
        extension_type: u16,
        message_type: u8,
    },
    #[error("refused: {0}")]
    Refused(&'static str),
    #[error("no SetupConnection in time")]
    SetupTimeout,
    #[error("it opened no channel in time")]
    NoChannel,
    #[error("it has channels and said nothing for too long")]
    Idle,
    #[error("the pool stops")]
    Stopping,
    #[error("there have been no templates for too long")]
    NoTemplates,
}

impl Fault {
    pub(crate) fn unexpected(frame: &Frame<'_>) -> Self {
        Self::Unexpected {
            extension_type: frame.extension_type,
            message_type: frame.message_type,
        }
    }
}

/// What happened since it was last asked for; plain numbers, folded into the shared ones a batch at a time.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub accepted: u64,
    pub work: u128,
    pub rejected: [u64; Rejection::ALL.len()],
    pub channels_opened: u64,
    /// By the error code that was answered.
    pub channels_refused: BTreeMap<&'static str, u64>,
    pub channels_closed: u64,
}

/// A block that the driver has to submit before it does anything else.
#[derive(Debug)]
pub(crate) struct Found {
    pub solved: Solved,
    pub owner: Owner,
}

impl Setup {
    fn handle(
        &mut self,
        frame: Frame<'_>,
        now: Instant,
        out: &mut FrameBuffer,
    ) -> Result<Mining, Fault> {
        let unexpected = Fault::unexpected(&frame);
        let Some(request) = frame.setup()? else {
            return Err(unexpected);
        };
        let flags = REQUIRES_STANDARD_JOBS | REQUIRES_VERSION_ROLLING;
        if let Err(refusal) = check_setup(&request, Protocol::MiningProtocol, flags) {
            refuse_setup(refusal, out)?;
            return Err(Fault::Refused(refusal.code));
        }
        if self.outage {
            refuse_setup(NO_TEMPLATES, out)?;
            return Err(Fault::NoTemplates);
        }
        accept_setup(out)?;
        let mut mining = Mining::new(
            Arc::clone(&self.resources),
            self.work.take(),
            request.flags & REQUIRES_STANDARD_JOBS != 0,
            now,
        );
        if self.resources.settings.told {
            mining.introduction = Some(Box::new(introduction(&request)));
        }
        Ok(mining)
    }
}

/// At most 255 bytes a field.
fn introduction(request: &SetupConnection<'_>) -> Introduction {
    let text = |text: &[u8]| String::from_utf8_lossy(text).into();
    Introduction {
        vendor: text(request.vendor.as_ref()),
        hardware: text(request.hardware_version.as_ref()),
        firmware: text(request.firmware.as_ref()),
        device_id: text(request.device_id.as_ref()),
        flags: request.flags,
    }
}

#[cfg(test)]
mod tests;
