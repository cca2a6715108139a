//! Stats: what roles see of their peers, told to a service that keeps it and shows it.
//!
//! Roles run a [`sender`], the stats services are made of the rest. [`state`] is what such a service knows, as a state
//! machine without I/O: it never opens a socket, reads no clock and writes no file.

#![forbid(unsafe_code)]

#[cfg(feature = "sender")]
pub mod sender;
#[cfg(feature = "receiver")]
pub mod series;
#[cfg(feature = "receiver")]
pub mod state;
pub mod web;

use std::time::Instant;

/// The time, given by whoever drives a state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For what lasts some time.
    pub instant: Instant,
    /// For what is shown: milliseconds since the Unix epoch.
    pub unix_ms: u64,
}
