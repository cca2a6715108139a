//! The arithmetic of mining, in one place: targets, difficulties, hashrates, work, block headers, and the difficulty
//! controller with its clamp.
//!
//! Every role that judges a share or sets a target calls it. It never does I/O, reads no clock and keeps no global
//! state, so that a simulation and a pool run the same code.

pub mod clamp;
pub mod difficulty;
pub mod header;
pub mod target;
pub mod vardiff;

pub use clamp::Clamp;
pub use difficulty::{Difficulty, Hashrate};
pub use header::Header;
pub use target::Target;
pub use vardiff::{Retarget, Vardiff};

/// A number from outside that cannot be what it claims to be.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Error {
    /// No hash can be below or equal to it but one, so no miner can mean it.
    #[error("a target of zero cannot be met")]
    ZeroTarget,
    /// The compact form (`nBits`) is negative, zero or larger than 256 bits.
    #[error("nbits {0:#010x} is no target")]
    InvalidCompact(u32),
    /// NaN, infinite, zero or negative.
    #[error("{0} is no difficulty: it must be finite and above zero")]
    InvalidDifficulty(f64),
    /// NaN, infinite or negative.
    #[error("{0} is no hashrate: it must be finite and not below zero")]
    InvalidHashrate(f64),
}
