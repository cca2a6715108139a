//! The translators that are measured, each in front of its own project's pool, and how both are started.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use bench_pool::{
    Result,
    process::{Process, ProcessorTimes},
    subject::{NOMINAL_HASHRATE, Pool, Subject, free_address},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{farm::Farm, http};

/// Shares that SRI's pool acknowledges at once.
const SRI_BATCH: usize = 10;

/// How long a translator may take until it gives out work, and a miner until it has some.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The programs of one project.
#[derive(Debug, Clone)]
pub(crate) enum Programs {
    /// Ours: the binary `hashpool`.
    Hashpool(PathBuf),
    /// SRI's.
    Sri { translator: PathBuf, pool: PathBuf },
}

/// What one measurement asks of the two.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Setup {
    /// One channel for all miners.
    pub(crate) aggregated: bool,
    /// The pool's count of shares is wanted.
    pub(crate) counted: bool,
}

/// A translator that runs, has a pool, and gives out work.
pub(crate) struct Stack {
    pub(crate) translator: Process,
    pub(crate) address: SocketAddr,
    pub(crate) pool: Pool,
    count: &'static str,
    _folder: TempDir,
}

/// The processor time of both.
pub(crate) struct Cpu {
    translator: ProcessorTimes,
    pool: ProcessorTimes,
}

impl Programs {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Hashpool(_) => "hashpool",
            Self::Sri { .. } => "SRI",
        }
    }

    pub(crate) fn version(&self) -> Result<String> {
        match self {
            Self::Hashpool(program) => version(program),
            Self::Sri { translator, pool } => {
                Ok(format!("{} + {}", version(translator)?, version(pool)?))
            }
        }
    }

    /// Starts a pool on templates of a provider of its own, and a translator that works for it.
    pub(crate) fn start(&self, setup: Setup, runtime: &Runtime) -> Result<Stack> {
        let pool = match self {
            Self::Hashpool(program) => Subject::Hashpool(program.clone()),
            Self::Sri { pool, .. } => Subject::Sri(pool.clone()),
        };
        let pool = runtime.block_on(pool.start(SRI_BATCH, setup.counted))?;
        let address = runtime.block_on(free_address())?;
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("translator.toml");
        let (text, mut command, count) = match self {
            Self::Hashpool(program) => {
                let mut command = Command::new(program);
                command.arg("translator");
                let text = hashpool_config(address, &pool, setup);
                (text, command, "hashpool_pool_shares_accepted_total")
            }
            Self::Sri { translator, .. } => {
                let mut command = Command::new(translator);
                // At its default level it writes a line for each share.
                command.env("RUST_LOG", "warn");
                let text = sri_config(address, &pool, setup);
                (text, command, "sv2_client_shares_accepted_total")
            }
        };
        fs::write(&config, text)?;
        command
            .arg("--config")
            .arg(&config)
            .current_dir(folder.path());
        let translator = Process::start(&mut command, &folder.path().join("log"))?;
        let mut stack = Stack {
            translator,
            address,
            pool,
            count,
            _folder: folder,
        };
        stack.wait_for_work()?;
        Ok(stack)
    }
}

impl Stack {
    /// The shares that the pool has accepted, as it counts them itself.
    pub(crate) fn accepted(&self) -> Result<u64> {
        let address = self.pool.http.ok_or("the pool shows no metrics")?;
        http::sum(address, self.count)
    }

    /// Where and what a thread of its own can ask for the same.
    pub(crate) fn counter(&self) -> Option<(SocketAddr, &'static str)> {
        Some((self.pool.http?, self.count))
    }

    pub(crate) fn cpu(&self) -> Result<Cpu> {
        Ok(Cpu {
            translator: self.translator.processor_times()?,
            pool: self.pool.process.processor_times()?,
        })
    }

    fn wait_for_work(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && !self.translator.has_ended() {
            let mut farm = Farm::new(self.address)?;
            farm.connect()?;
            let one = |farm: &Farm| farm.ready + farm.failed.len() > 0;
            if farm.run_until(Duration::from_secs(2), one)? && farm.ready > 0 {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let said = self.translator.last_words();
        Err(format!("the translator gives out no work; it said last:\n{said}").into())
    }
}

impl Cpu {
    /// The translator's and the pool's since `before`.
    pub(crate) fn since(&self, before: &Self) -> (Duration, Duration) {
        (
            self.translator.since(&before.translator),
            self.pool.since(&before.pool),
        )
    }
}

fn version(program: &PathBuf) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn hashpool_config(address: SocketAddr, pool: &Pool, setup: Setup) -> String {
    format!(
        r#"listen_address = "{address}"
http_address = "off"
nominal_hashrate = {NOMINAL_HASHRATE:?}
aggregate = {}

[[upstreams]]
address = "{}"
authority_public_key = "{}"
"#,
        setup.aggregated, pool.address, pool.authority_public_key,
    )
}

fn sri_config(address: SocketAddr, pool: &Pool, setup: Setup) -> String {
    format!(
        r#"downstream_address = "{}"
downstream_port = {}
max_supported_version = 2
min_supported_version = 2
downstream_extranonce2_size = 4
aggregate_channels = {}
supported_extensions = []

[downstream_difficulty_config]
min_individual_miner_hashrate = {NOMINAL_HASHRATE:?}
shares_per_minute = 6.0
enable_vardiff = false
job_keepalive_interval_secs = 0

[[upstreams]]
address = "{}"
port = {}
authority_pubkey = "{}"
user_identity = "bench"
"#,
        address.ip(),
        address.port(),
        setup.aggregated,
        pool.address.ip(),
        pool.address.port(),
        pool.authority_public_key,
    )
}
