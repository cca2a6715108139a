//! Databases of a test's own: SQLite's file or PostgreSQL's server, and the same test on both.
//!
//! Tests call it. A server listens on the loopback interface alone. Each keeps its data in a temporary folder, and ends with
//! the value that holds it.

#![allow(
    clippy::expect_used,
    clippy::print_stderr,
    reason = "all of it runs in tests"
)]

mod either;

pub use either::{Database, Lock};

use std::{
    env, fs,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use tempfile::TempDir;

const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Another process can take a free port before the server has it.
const START_ATTEMPTS: usize = 3;

/// A running server with an empty database.
#[derive(Debug)]
pub struct Postgres {
    process: Child,
    port: u16,
    programs: PathBuf,
    data: Arc<TempDir>,
}

impl Postgres {
    /// Starts one, or says why there is none. With `CI` set there has to be one.
    ///
    /// # Panics
    /// If a server that is installed does not start, or none is and `CI` is set.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::launch(None)
    }

    /// The same, with TLS, for which it has this certificate and key (PEM).
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_with_tls(certificate: &str, key: &str) -> Option<Self> {
        Self::launch(Some((certificate, key)))
    }

    fn launch(tls: Option<(&str, &str)>) -> Option<Self> {
        let Some(programs) = programs() else {
            assert!(
                env::var_os("CI").is_none(),
                "CI is set, and PostgreSQL is not installed"
            );
            eprintln!("skipped: PostgreSQL is not installed (Debian: apt-get install postgresql)");
            return None;
        };
        let data = Arc::new(tempfile::tempdir().expect("temporary folder"));
        fs::set_permissions(data.path(), fs::Permissions::from_mode(0o777)).expect("permissions");
        let initialised = unprivileged(&programs.join("initdb"))
            .args([
                "--no-sync",
                "--auth=trust",
                "--username=tester",
                "--encoding=UTF8",
                "--locale=C",
            ])
            .arg("--pgdata")
            .arg(data.path().join("db"))
            .stdout(Stdio::null())
            .status()
            .expect("initdb");
        assert!(initialised.success(), "initdb failed");
        if let Some((certificate, key)) = tls {
            set_tls(&data.path().join("db"), certificate, key);
        }
        for _ in 0..START_ATTEMPTS {
            let port = free_port();
            let process = spawn(&programs, data.path(), port);
            let mut server = Self {
                process,
                port,
                programs: programs.clone(),
                data: Arc::clone(&data),
            };
            if server.answers() {
                return Some(server);
            }
        }
        panic!("PostgreSQL does not start");
    }

    /// What to put into `storage.url`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://tester:secret@127.0.0.1:{}/postgres", self.port)
    }

    /// Ends the server as the loss of power would, but for what the system has taken to write, and starts it again.
    ///
    /// # Panics
    /// If it does not start again.
    pub fn restart(&mut self) {
        self.stop();
        self.process = spawn(&self.programs, self.data.path(), self.port);
        assert!(self.answers(), "PostgreSQL does not start again");
    }

    fn answers(&mut self) -> bool {
        let started = Instant::now();
        while started.elapsed() < START_TIMEOUT {
            if self.process.try_wait().expect("its state").is_some() {
                return false;
            }
            let ready = Command::new(self.programs.join("pg_isready"))
                .args(["--quiet", "--host=127.0.0.1", "--username=tester"])
                .arg(format!("--port={}", self.port))
                .status()
                .expect("pg_isready");
            if ready.success() {
                return true;
            }
            sleep(POLL_INTERVAL);
        }
        false
    }

    fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(programs: &Path, data: &Path, port: u16) -> Child {
    unprivileged(&programs.join("postgres"))
        .arg("-D")
        .arg(data.join("db"))
        .arg("-k")
        .arg(data)
        .args(["-p", &port.to_string()])
        .args([
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "max_connections=40",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("postgres")
}

/// What the server reads at its start; it takes no key that others may read.
fn set_tls(data: &Path, certificate: &str, key: &str) {
    let owner = fs::metadata(data).expect("the data folder");
    let write = |name: &str, text: &str| {
        let path = data.join(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
        chown(&path, Some(owner.uid()), Some(owner.gid())).expect("its owner");
    };
    write("server.crt", certificate);
    write("server.key", key);
    let path = data.join("postgresql.conf");
    let settings = fs::read_to_string(&path).expect("the settings") + "\nssl = on\n";
    fs::write(&path, settings).expect("the settings");
}

/// PostgreSQL refuses to run as root; there it gets the user that its package makes.
fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = package_user().filter(|_| is_root()) {
        command.uid(user).gid(group);
    }
    command.current_dir("/");
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn package_user() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Where Debian keeps the server's programs, or wherever `initdb` is found.
fn programs() -> Option<PathBuf> {
    let packaged = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let packaged = packaged
        .filter_map(Result::ok)
        .map(|version| version.path().join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let needed = ["initdb", "postgres", "pg_isready"];
    packaged
        .chain(env::split_paths(&path))
        .find(|folder| needed.iter().all(|name| folder.join(name).exists()))
}

fn free_port() -> u16 {
    let socket = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    socket.local_addr().expect("its address").port()
}
