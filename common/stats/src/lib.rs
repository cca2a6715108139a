//! Stats: what roles see of their peers, told to a service that keeps it and shows it.
//!
//! The stats services are made of it. [`state`] is what such a service knows, as a state machine without I/O: it never
//! opens a socket, reads no clock and writes no file.

#![forbid(unsafe_code)]

pub mod series;
pub mod state;
