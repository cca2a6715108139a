//! The pools that benchmarks measure, each a process of its own on made-up templates; `benches/translator` puts translators
//! in front of them. It never judges a figure.

pub mod client;
pub mod process;
pub mod provider;
pub mod subject;

/// Whatever goes wrong ends one measurement.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// What a measurement comes back with.
pub type Result<T> = std::result::Result<T, Error>;
