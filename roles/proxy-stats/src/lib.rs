//! What happens at a translator or relay, its miners and its upstreams: kept, and shown.
//!
//! The `hashpool` binary runs it; translators and relays tell it what they see. All it does is in `common/stats`; here is
//! what tells it from the service of a pool.

#![forbid(unsafe_code)]

use stats::receiver::{Receiver, Role};
use stats::web::Kind;
use tokio_util::sync::CancellationToken;

pub use stats::receiver::Error;

/// The stats service of a translator or relay.
#[derive(Debug, Clone, Copy)]
pub struct ProxyStats;

impl Role for ProxyStats {
    const NAME: &str = "proxy-stats";
    const METRICS: &str = "proxy_stats";
    const PORT: u16 = 9084;
    const HTTP_PORT: u16 = 3030;
    const ROLES: &[&str] = &["translator", "relay"];
    const PAGES: Kind = Kind::Proxy;
}

/// Its configuration; `config/proxy-stats.toml` documents each key.
pub type Config = stats::receiver::Config<ProxyStats>;

/// Binds and runs it until `shutdown`.
///
/// # Errors
/// [`Error`]
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    Receiver::bind(config).await?.run(shutdown).await
}
