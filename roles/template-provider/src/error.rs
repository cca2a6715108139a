//! Why a template provider cannot start or go on.

use std::path::PathBuf;

use sv2_connection::KeyError;

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
    /// The provider has no key to prove itself with.
    #[error(
        "no authority key: make one with `hashpool keygen --out FILE` and set authority_secret_key_file to that file"
    )]
    NoAuthorityKey,
    /// The key file cannot be read, or is none.
    #[error("authority key file {}: {problem}", .path.display())]
    AuthorityKeyFile {
        /// The file.
        path: PathBuf,
        /// The system's reason, or what the content is not.
        problem: String,
    },
    /// The configured key is no key.
    #[error("authority_secret_key: {0}")]
    AuthorityKey(#[from] KeyError),
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
