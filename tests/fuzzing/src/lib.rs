//! What is promised of any bytes: drivers that take some, play them, and panic where a promise does not hold.
//!
//! The fuzz targets in `fuzz/` call them for as long as they are let, the tests of this crate for a moment at every run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a panic is what it says something with"
)]

mod frames;
mod lines;
mod session;

pub use frames::frames;
pub use lines::lines;
pub use session::session;
