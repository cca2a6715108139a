//! Why a template provider cannot start or go on.

use sv2_connection::AuthorityKeyError;

/// The operator's to mend, all of them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the configuration that cannot be.
    #[error("{key}: {problem}")]
    Config {
        /// The key, with dots.
        key: &'static str,
        /// What is wrong with its value, and what would be right.
        problem: String,
    },
    /// There is no key to prove itself with, or none that can be used.
    #[error(transparent)]
    AuthorityKey(#[from] AuthorityKeyError),
    /// The listening socket.
    #[error(transparent)]
    Listen(#[from] service::listener::Error),
    /// Ours: two metrics have one name.
    #[error("metrics: {0}; this is a fault of the template provider, please report it")]
    Metrics(#[from] service::http::prometheus::Error),
    /// The template source cannot be used as configured.
    #[error("template source: {0}")]
    Templates(#[from] templates::Error),
}
