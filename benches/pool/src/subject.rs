//! The pools that are measured, and how each is started.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use sv2_connection::{Authority, AuthorityPublicKey, AuthoritySecretKey};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};

use crate::{Result, client::Client, process::Process, provider::Provider};

/// The share rate that pools are asked to aim at; with [`NOMINAL_HASHRATE`] it makes a share of ten hashes.
const SHARES_PER_MINUTE: f64 = 6.0;

/// What each channel says of itself, in H/s.
pub const NOMINAL_HASHRATE: f32 = 1.0;

/// Ten hashes, as a difficulty.
const MINIMUM_DIFFICULTY: f64 = 2.3e-9;

/// How long a pool may take until it gives out work.
const PATIENCE: Duration = Duration::from_secs(30);

/// A pool's program.
#[derive(Debug, Clone)]
pub enum Subject {
    /// Ours: the binary `hashpool`.
    Hashpool(PathBuf),
    /// SRI's: the binary `pool_sv2`.
    Sri(PathBuf),
}

/// A pool that runs and has work for everybody.
#[derive(Debug)]
pub struct Pool {
    /// Itself.
    pub process: Process,
    /// Where its templates come from.
    pub provider: Provider,
    /// Where miners connect.
    pub address: SocketAddr,
    /// Where `/metrics` is, if it was asked for.
    pub http: Option<SocketAddr>,
    /// What it proves itself with.
    pub authority_public_key: AuthorityPublicKey,
    _folder: TempDir,
}

impl Subject {
    /// Whose it is.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hashpool(_) => "hashpool",
            Self::Sri(_) => "SRI",
        }
    }

    /// What the program says of itself.
    ///
    /// # Errors
    /// If it does not run.
    pub fn version(&self) -> Result<String> {
        let (Self::Hashpool(program) | Self::Sri(program)) = self;
        let output = Command::new(program)
            .arg("--version")
            .output()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Starts the pool on templates of a provider of its own. SRI's acknowledges each channel's shares in batches of
    /// `batch`; ours acknowledges what there is. With `http` it shows its metrics.
    ///
    /// # Errors
    /// If it gives out no work within half a minute.
    pub async fn start(&self, batch: usize, http: bool) -> Result<Pool> {
        self.start_telling(batch, http, None).await
    }

    /// The same, and ours tells a stats service what happens: once a second, which is five times as often as by default.
    ///
    /// # Errors
    /// As above.
    pub async fn start_telling(
        &self,
        batch: usize,
        http: bool,
        stats: Option<SocketAddr>,
    ) -> Result<Pool> {
        let provider = Provider::start().await?;
        let folder = tempfile::tempdir()?;
        let address = free_address().await?;
        let http = if http {
            Some(free_address().await?)
        } else {
            None
        };
        let secret = AuthoritySecretKey::generate();
        let authority_public_key = Authority::new(secret.clone())?.public();
        let config = folder.path().join("pool.toml");
        let mut command = match self {
            Self::Hashpool(program) => {
                fs::write(&config, hashpool_config(address, http, &provider))?;
                let mut command = Command::new(program);
                command
                    .arg("pool")
                    .env("HASHPOOL_POOL__AUTHORITY_SECRET_KEY", secret.reveal());
                if let Some(address) = stats {
                    command
                        .env("HASHPOOL_POOL__STATS__ADDRESS", address.to_string())
                        .env("HASHPOOL_POOL__STATS__INTERVAL_MS", "1000");
                }
                command
            }
            Self::Sri(program) => {
                let text = sri_config(address, &provider, authority_public_key, &secret, batch);
                fs::write(&config, sri_monitoring(http) + &text)?;
                let mut command = Command::new(program);
                // At its default level it writes a line for each share.
                command.env("RUST_LOG", "warn");
                command
            }
        };
        command
            .arg("--config")
            .arg(&config)
            .current_dir(folder.path());
        let process = Process::start(&mut command, &folder.path().join("log"))?;
        let mut pool = Pool {
            process,
            provider,
            address,
            http,
            authority_public_key,
            _folder: folder,
        };
        pool.wait_for_work().await?;
        Ok(pool)
    }
}

impl Pool {
    /// Connects a miner.
    ///
    /// # Errors
    /// Whatever the pool does wrong.
    pub async fn connect(&self) -> Result<Client> {
        Client::connect(self.address, self.authority_public_key).await
    }

    async fn wait_for_work(&mut self) -> Result<()> {
        let patience = timeout(PATIENCE, async {
            while !self.process.has_ended() {
                if let Ok(mut client) = self.connect().await
                    && client.open_channel().await.is_ok()
                {
                    return true;
                }
                sleep(Duration::from_millis(100)).await;
            }
            false
        });
        if patience.await == Ok(true) {
            return Ok(());
        }
        let said = self.process.last_words();
        Err(format!("the pool gives out no work; it said last:\n{said}").into())
    }
}

/// A port that was free a moment ago: SRI's pool cannot say which it got.
///
/// # Errors
/// If there is no port.
pub async fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    Ok(listener.local_addr()?)
}

fn hashpool_config(address: SocketAddr, http: Option<SocketAddr>, provider: &Provider) -> String {
    let http = http.map_or_else(|| "off".to_owned(), |address| address.to_string());
    format!(
        r#"listen_address = "{address}"
http_address = "{http}"
data_dir = "data"
payout = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"
shares_per_minute = {SHARES_PER_MINUTE:?}
minimum_difficulty = {MINIMUM_DIFFICULTY:?}
messages_per_second = 0

[template]
source = "sv2"
address = "{}"
authority_public_key = "{}"
network = "regtest"
"#,
        provider.address, provider.authority_public_key,
    )
}

/// Its metrics are of a moment that is up to five seconds old.
fn sri_monitoring(http: Option<SocketAddr>) -> String {
    http.map_or_else(String::new, |address| {
        format!("monitoring_address = \"{address}\"\nmonitoring_cache_refresh_secs = 5\n")
    })
}

fn sri_config(
    address: SocketAddr,
    provider: &Provider,
    public_key: AuthorityPublicKey,
    secret_key: &AuthoritySecretKey,
    batch: usize,
) -> String {
    format!(
        r#"listen_address = "{address}"
authority_public_key = "{public_key}"
authority_secret_key = "{}"
cert_validity_sec = 3600
coinbase_reward_script = "addr(bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080)"
pool_signature = "hashpool"
shares_per_minute = {SHARES_PER_MINUTE:?}
share_batch_size = {batch}
server_id = 1

[template_provider_type.Sv2Tp]
address = "{}"
public_key = "{}"
"#,
        secret_key.reveal(),
        provider.address,
        provider.authority_public_key,
    )
}
