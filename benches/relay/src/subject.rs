//! What is measured: the relay and what else passes bytes on, and how each is started.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use bench_pool::{Result, process::Process};
use nix::sys::resource::{Resource, getrlimit};
use tempfile::TempDir;

/// Something that stands between miners and a pool.
#[derive(Debug, Clone)]
pub(crate) enum Subject {
    /// Nothing: what the others are compared with.
    Direct,
    Hashpool(PathBuf),
    Haproxy(PathBuf),
    Socat(PathBuf),
}

/// One that runs and accepts connections.
pub(crate) struct Running {
    pub(crate) process: Option<Process>,
    /// Where miners connect.
    pub(crate) address: SocketAddr,
    _folder: TempDir,
}

impl Subject {
    /// The direct connection and all whose programs there are.
    pub(crate) fn all(
        hashpool: &Option<PathBuf>,
        haproxy: &Option<PathBuf>,
        socat: &Option<PathBuf>,
    ) -> Vec<Self> {
        let programs = [
            hashpool.clone().map(Self::Hashpool),
            haproxy.clone().map(Self::Haproxy),
            socat.clone().map(Self::Socat),
        ];
        let mut all = vec![Self::Direct];
        all.extend(programs.into_iter().flatten());
        all
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Hashpool(_) => "hashpool",
            Self::Haproxy(_) => "haproxy",
            Self::Socat(_) => "socat",
        }
    }

    pub(crate) fn version(&self) -> Result<String> {
        let (program, argument) = match self {
            Self::Direct => return Ok("direct".to_owned()),
            Self::Hashpool(program) => (program, "--version"),
            Self::Haproxy(program) => (program, "-v"),
            Self::Socat(program) => (program, "-V"),
        };
        let output = Command::new(program)
            .arg(argument)
            .output()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        // The first word that is a number follows a name, whatever stands between them.
        let number = text.split_whitespace().find(|word| {
            word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.')
        });
        let number = number.unwrap_or("").split(['-', '+']).next().unwrap_or("");
        Ok(format!("{} {number}", self.name()))
    }

    /// Starts it in front of this pool, and waits until it accepts.
    pub(crate) fn start(&self, pool: SocketAddr) -> Result<Running> {
        let folder = tempfile::tempdir()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = match self {
            Self::Direct => {
                return Ok(Running {
                    process: None,
                    address: pool,
                    _folder: folder,
                });
            }
            Self::Hashpool(program) => relay(program, address, pool),
            Self::Haproxy(program) => haproxy(program, address, pool, folder.path())?,
            Self::Socat(program) => socat(program, address, pool),
        };
        command.current_dir(folder.path());
        let process = Process::start(&mut command, &folder.path().join("log"))?;
        let mut running = Running {
            process: Some(process),
            address,
            _folder: folder,
        };
        running.wait()?;
        Ok(running)
    }
}

impl Running {
    /// The end of what it said.
    pub(crate) fn last_words(&self) -> Option<String> {
        self.process.as_ref().map(Process::last_words)
    }

    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() {
            let ended = self.process.as_mut().is_some_and(Process::has_ended);
            if ended || Instant::now() > deadline {
                let said = self.last_words().unwrap_or_default();
                return Err(format!("it does not accept connections:\n{said}").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// With its defaults, but for limits that a benchmark on one address exceeds.
fn relay(program: &Path, address: SocketAddr, pool: SocketAddr) -> Command {
    let mut command = Command::new(program);
    command
        .arg("relay")
        .args(["--set", "limits.connections=100000"])
        .args(["--set", "limits.connections_per_address=100000"])
        .env("POOL_HOST", pool.ip().to_string())
        .env("POOL_PORT", pool.port().to_string())
        .env("BIND_PORT", address.port().to_string())
        .env("METRICS_PORT", "0");
    command
}

/// TCP mode with its defaults, but for the limit of connections and timeouts.
fn haproxy(
    program: &Path,
    address: SocketAddr,
    pool: SocketAddr,
    folder: &Path,
) -> Result<Command> {
    let config = folder.join("haproxy.cfg");
    // It refuses to start with more than the descriptors that it may open are enough for.
    let (_, files) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let most = (files / 2).saturating_sub(50);
    let text = format!(
        "global\n  maxconn {most}\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         frontend miners\n  bind {address}\n  default_backend pool\n\
         backend pool\n  server pool {pool}\n"
    );
    fs::write(&config, text)?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(config);
    Ok(command)
}

/// A process for each connection.
fn socat(program: &Path, address: SocketAddr, pool: SocketAddr) -> Command {
    let mut command = Command::new(program);
    command.arg(format!(
        "TCP-LISTEN:{},bind={},fork,reuseaddr,backlog=1024,nodelay",
        address.port(),
        address.ip()
    ));
    command.arg(format!("TCP:{pool},nodelay"));
    command
}

const PATIENCE: Duration = Duration::from_secs(30);
