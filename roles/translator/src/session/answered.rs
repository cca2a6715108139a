//! Requests that were answered, for whoever measures how long that took.

use std::time::Instant;

use stratum_v1::{Fault, Method, ParseError};

/// What a miner asked, as far as answers are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// `mining.submit`
    Submit,
    /// `mining.subscribe`
    Subscribe,
    /// `mining.authorize`
    Authorize,
    /// `mining.configure`
    Configure,
    /// Anything else, lines that make no sense included.
    Other,
}

impl RequestKind {
    /// All of them, the one that comes most often first.
    pub const ALL: [Self; 5] = [
        Self::Submit,
        Self::Subscribe,
        Self::Authorize,
        Self::Configure,
        Self::Other,
    ];

    /// As it is called in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Subscribe => "subscribe",
            Self::Authorize => "authorize",
            Self::Configure => "configure",
            Self::Other => "other",
        }
    }

    pub(super) fn of(request: &Method<'_>) -> Self {
        match request {
            Method::Submit(_) => Self::Submit,
            Method::Subscribe { .. } => Self::Subscribe,
            Method::Authorize { .. } => Self::Authorize,
            Method::Configure(_) => Self::Configure,
            _ => Self::Other,
        }
    }

    pub(super) fn of_malformed(error: &ParseError<'_>) -> Self {
        match error.fault {
            Fault::BadSubmit(_) => Self::Submit,
            _ => Self::Other,
        }
    }
}

/// Answers that stand in an output and have not been measured yet.
#[derive(Debug, Default)]
pub struct Answered {
    /// So many of each kind of [`RequestKind::ALL`], answered as soon as they were read.
    pub at_once: [u32; RequestKind::ALL.len()],
    /// When the submits were read that were answered when the upstream had.
    pub later: Vec<Instant>,
}

impl Answered {
    /// Whether there is nothing to measure.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.at_once == [0; RequestKind::ALL.len()] && self.later.is_empty()
    }

    /// Forgets all of it.
    pub fn clear(&mut self) {
        self.at_once = Default::default();
        self.later.clear();
    }

    pub(super) fn count(&mut self, kind: RequestKind) {
        self.at_once[kind as usize] += 1;
    }
}
