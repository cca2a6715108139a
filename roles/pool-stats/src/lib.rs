//! What happens at a pool and everything that is connected to it: kept, and shown.
//!
//! The `hashpool` binary runs it; pools, job declarators, mints and translators tell it what they see. All it does is in
//! `common/stats`; here is what tells it from the service of a translator.

#![forbid(unsafe_code)]

use stats::receiver::{Receiver, Role};
use stats::web::Kind;
use tokio_util::sync::CancellationToken;

pub use stats::receiver::Error;

/// The stats service of a pool.
#[derive(Debug, Clone, Copy)]
pub struct PoolStats;

impl Role for PoolStats {
    const NAME: &str = "pool-stats";
    const METRICS: &str = "pool_stats";
    const PORT: u16 = 9083;
    const HTTP_PORT: u16 = 8081;
    const ROLES: &[&str] = &[
        "pool",
        "translator",
        "relay",
        "mint",
        "template-provider",
        "jd-server",
        "jd-client",
    ];
    const PAGES: Kind = Kind::Pool;
}

/// Its configuration; `config/pool-stats.toml` documents each key.
pub type Config = stats::receiver::Config<PoolStats>;

/// Binds and runs it until `shutdown`.
///
/// # Errors
/// [`Error`]
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    Receiver::bind(config).await?.run(shutdown).await
}
