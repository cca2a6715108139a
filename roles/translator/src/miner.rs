//! One miner's connection: [`Socket`] is the only code that touches its socket, [`Driver`] drives a
//! [`Session`](crate::session::Session) and does what that asks.
//!
//! Backpressure: lines are handled only while everything that earlier ones caused has been written or queued, so a miner
//! that does not read, or an upstream that cannot take more, stops the reading, and TCP slows the miner down.

mod attached;
mod driver;
mod farewell;
mod moderation;
#[cfg(test)]
mod simulation;
mod socket;
mod transport;

pub(crate) use driver::Driver;
pub(crate) use socket::Socket;
pub(crate) use transport::Tls;

use tokio::time::Instant;

use crate::session::{EndReason, Now};

/// Unwritten bytes at which no further line of a read is handled.
const ENOUGH_OUTPUT: usize = 64 * 1024;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The miner closed it.
    Closed,
    /// The socket failed.
    Failed,
    /// The miner broke the rules of TLS, or has no keys and ciphers in common with us.
    Tls,
    /// The miner does not speak TLS where it should.
    NotTls,
    /// The miner does not read.
    WriteTimeout,
    /// The session wanted it.
    Session(EndReason),
    /// The translator stops.
    Shutdown,
    /// No pool could be had for too long.
    Outage,
}

impl End {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Failed => "failed",
            Self::Tls => "tls",
            Self::NotTls => "not-tls",
            Self::WriteTimeout => "write-timeout",
            Self::Session(EndReason::SetupTimeout) => "setup-timeout",
            Self::Session(EndReason::Idle) => "idle",
            Self::Session(EndReason::MalformedLines) => "malformed-lines",
            Self::Session(EndReason::OversizedLine) => "oversized-line",
            Self::Shutdown => "shutdown",
            Self::Outage => "outage",
        }
    }
}

fn now() -> Now {
    Now {
        // The simulations' clock is tokio's.
        instant: Instant::now().into_std(),
    }
}
