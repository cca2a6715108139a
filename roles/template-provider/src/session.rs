//! The conversation with one client, without I/O: messages, time and templates go in, messages and solutions come out.

mod distribution;

use std::{
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use stratum_core::common_messages_sv2::Protocol;
use sv2_connection::{
    Frame, FrameBuffer, MalformedMessage, accept_setup, check_setup, refuse_setup,
};
use templates::{Solution, Template, TooLarge};

use distribution::Distribution;

/// A session is in set-up until the client has introduced itself; only then it gets templates.
#[derive(Debug)]
pub(crate) enum Session {
    Setup(Setup),
    Distribution(Distribution),
}

#[derive(Debug)]
pub(crate) struct Setup {
    settings: Settings,
    newest: Option<Arc<Template>>,
    deadline: Instant,
}

/// The parts of the configuration that a session asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub setup_timeout: Duration,
    /// Templates that can still be asked for and solved.
    pub remembered: usize,
}

impl Session {
    pub(crate) fn new(settings: Settings, accepted_at: Instant) -> Self {
        Self::Setup(Setup {
            settings,
            newest: None,
            deadline: accepted_at + settings.setup_timeout,
        })
    }

    /// Takes one message of the client. `Break` says that what it caused has to be dealt with before the next is
    /// taken: an answer can be as large as a block.
    pub(crate) fn handle(
        &mut self,
        frame: Frame<'_>,
        out: &mut FrameBuffer,
    ) -> Result<ControlFlow<()>, Fault> {
        match self {
            Self::Setup(setup) => {
                *self = Self::Distribution(setup.handle(frame, out)?);
                Ok(ControlFlow::Continue(()))
            }
            Self::Distribution(distribution) => {
                distribution.handle(frame, out)?;
                Ok(ControlFlow::Break(()))
            }
        }
    }

    /// Takes the newest template; older ones that were skipped are of no interest.
    pub(crate) fn template_changed(
        &mut self,
        template: Arc<Template>,
        out: &mut FrameBuffer,
    ) -> Result<(), Fault> {
        match self {
            Self::Setup(setup) => setup.newest = Some(template),
            Self::Distribution(distribution) => distribution.template_changed(template, out)?,
        }
        Ok(())
    }

    /// When the set-up has to be over; `None` when it is.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Setup(setup) => Some(setup.deadline),
            Self::Distribution(_) => None,
        }
    }

    /// A block that the client found, to be submitted at once.
    pub(crate) fn take_solution(&mut self) -> Option<Solution> {
        match self {
            Self::Setup(_) => None,
            Self::Distribution(distribution) => distribution.solution.take(),
        }
    }

    /// Counts since the last call.
    pub(crate) fn take_tally(&mut self) -> Tally {
        match self {
            Self::Setup(_) => Tally::default(),
            Self::Distribution(distribution) => std::mem::take(&mut distribution.tally),
        }
    }
}

/// Why the connection has to end. The client's fault, all of them.
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
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

impl Fault {
    /// Its name among the counters; `None` where the client just left.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        Some(match self {
            Self::Connection(error) => return error.reason(),
            Self::Malformed(_) => "malformed-message",
            Self::Unexpected { .. } => "unexpected-message",
            Self::Refused(_) => "refused",
            Self::SetupTimeout => "setup-timeout",
            Self::TooLarge(_) => "constraints",
        })
    }

    fn unexpected(frame: &Frame<'_>) -> Self {
        Self::Unexpected {
            extension_type: frame.extension_type,
            message_type: frame.message_type,
        }
    }
}

/// What happened since it was last asked for; plain numbers, folded into the shared ones.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub templates: u64,
    pub tips: u64,
    pub transaction_requests: u64,
    pub transaction_requests_refused: u64,
    pub solutions: u64,
    /// Of a template that is not known, or not a block.
    pub solutions_refused: u64,
}

impl Setup {
    fn handle(&mut self, frame: Frame<'_>, out: &mut FrameBuffer) -> Result<Distribution, Fault> {
        let unexpected = Fault::unexpected(&frame);
        let Some(request) = frame.setup()? else {
            return Err(unexpected);
        };
        // The protocol has no flags (SV2 7).
        if let Err(refusal) = check_setup(&request, Protocol::TemplateDistributionProtocol, 0) {
            refuse_setup(refusal, out)?;
            return Err(Fault::Refused(refusal.code));
        }
        accept_setup(out)?;
        Ok(Distribution::new(
            self.settings.remembered,
            self.newest.take(),
        ))
    }
}

#[cfg(test)]
mod tests;
