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
pub(crate) const NOMINAL_HASHRATE: f32 = 1.0;

/// Ten hashes, as a difficulty.
const MINIMUM_DIFFICULTY: f64 = 2.3e-9;

/// How long a pool may take until it gives out work.
const PATIENCE: Duration = Duration::from_secs(30);

/// A pool's program.
#[derive(Debug, Clone)]
pub(crate) enum Subject {
    /// Ours: the binary `hashpool`.
    Hashpool(PathBuf),
    /// SRI's: the binary `pool_sv2`.
    Sri(PathBuf),
}

/// A pool that runs and has work for everybody.
pub(crate) struct Pool {
    pub(crate) process: Process,
    pub(crate) provider: Provider,
    pub(crate) address: SocketAddr,
    pub(crate) authority_public_key: AuthorityPublicKey,
    _folder: TempDir,
}

impl Subject {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Hashpool(_) => "hashpool",
            Self::Sri(_) => "SRI",
        }
    }

    pub(crate) fn version(&self) -> Result<String> {
        let (Self::Hashpool(program) | Self::Sri(program)) = self;
        let output = Command::new(program)
            .arg("--version")
            .output()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Starts the pool on templates of a provider of its own. SRI's acknowledges each channel's shares in batches of
    /// `batch`; ours acknowledges what there is.
    pub(crate) async fn start(&self, batch: usize) -> Result<Pool> {
        let provider = Provider::start().await?;
        let folder = tempfile::tempdir()?;
        let address = free_address().await?;
        let secret = AuthoritySecretKey::generate();
        let authority_public_key = Authority::new(secret.clone())?.public();
        let config = folder.path().join("pool.toml");
        let mut command = match self {
            Self::Hashpool(program) => {
                fs::write(&config, hashpool_config(address, &provider))?;
                let mut command = Command::new(program);
                command
                    .arg("pool")
                    .env("HASHPOOL_POOL__AUTHORITY_SECRET_KEY", secret.reveal());
                command
            }
            Self::Sri(program) => {
                let text = sri_config(address, &provider, authority_public_key, &secret, batch);
                fs::write(&config, text)?;
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
            authority_public_key,
            _folder: folder,
        };
        pool.wait_for_work().await?;
        Ok(pool)
    }
}

impl Pool {
    pub(crate) async fn connect(&self) -> Result<Client> {
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
async fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    Ok(listener.local_addr()?)
}

fn hashpool_config(address: SocketAddr, provider: &Provider) -> String {
    format!(
        r#"listen_address = "{address}"
http_address = "off"
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
