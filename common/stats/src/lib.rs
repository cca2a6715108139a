//! Stats: what roles see of their peers, told to a service that keeps it and shows it.
//!
//! Roles run a [`sender`], the stats services a [`receiver`]. What such a service knows is in [`state`] and, with hashrates,
//! in [`board`], as state machines without I/O: they open no socket, read no clock and write no file.

#![forbid(unsafe_code)]

#[cfg(feature = "auth")]
pub mod auth;
#[cfg(feature = "receiver")]
pub mod board;
#[cfg(feature = "service")]
pub mod receiver;
#[cfg(feature = "sender")]
pub mod sender;
#[cfg(feature = "receiver")]
pub mod series;
#[cfg(feature = "receiver")]
pub mod state;
#[cfg(feature = "service")]
mod store;
mod token;
#[cfg(feature = "receiver")]
pub mod web;

use std::time::Instant;

pub use token::Token;

/// The time, given by whoever drives a state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For what lasts some time.
    pub instant: Instant,
    /// For what is shown: milliseconds since the Unix epoch.
    pub unix_ms: u64,
}
