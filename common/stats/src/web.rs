//! What people see: pages, the same as JSON, and the numbers and charts in them.
//!
//! A request copies what it shows from the board, so that the writer waits for no rendering and no reader. Nothing that a
//! browser loads comes from elsewhere.

#[cfg(feature = "service")]
mod api;
#[cfg(feature = "service")]
mod assets;
pub mod chart;
#[cfg(feature = "service")]
mod config;
#[cfg(feature = "service")]
mod connect;
pub mod format;
#[cfg(feature = "service")]
mod history;
#[cfg(feature = "service")]
mod live;
#[cfg(feature = "service")]
mod model;
#[cfg(feature = "service")]
mod pages;
#[cfg(feature = "service")]
mod show;
#[cfg(feature = "service")]
mod site;

#[cfg(feature = "service")]
pub use config::WebConfig;
#[cfg(feature = "service")]
pub use site::Kind;
#[cfg(feature = "service")]
pub(crate) use site::router;
