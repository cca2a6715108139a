//! What roles tell a stats service, and what it answers: length-prefixed MessagePack, described in
//! `docs/stats-protocol.md`.
//!
//! The sender and the receiver in `common/stats` speak it. There is no socket, clock or task in here.

#![forbid(unsafe_code)]

mod counters;
mod event;
mod frame;
mod message;

pub use counters::{Counters, Work};
pub use event::{
    Block, BlockState, Endpoint, Event, Invalid, Peer, PeerEnd, PeerState, ServiceState, Template,
    UpstreamState, WorkerState,
};
pub use frame::{Error, FrameReader, MAX_FRAME, decode, encode};
pub use message::{FromSender, FromService, Hello, Numbered, RefusalCode};

/// The version of the conversation that this crate speaks. A service speaks all versions up to its own.
pub const VERSION: u16 = 1;
