//! A running `hashpool up`, and what its tests ask of it.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Far more than any step takes; only a stack that hangs gets there.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// A running stack and what it printed so far.
pub(crate) struct Up {
    child: Child,
    lines: Receiver<String>,
    pub(crate) seen: Vec<String>,
}

impl Up {
    pub(crate) fn start(data: &Path, arguments: &[&str]) -> Self {
        let mut child = hashpool()
            .args(["up", "--data"])
            .arg(data)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    pub(crate) fn wait_for(&mut self, what: impl Fn(&str) -> bool) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if what(&line) {
                        return line;
                    }
                }
                Err(error) => {
                    // Only then does reading its standard error come to an end.
                    let _ = self.child.kill();
                    panic!(
                        "{error}; seen:\n{}\n{}",
                        self.seen.join("\n"),
                        self.stderr()
                    );
                }
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &command]).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) fn ended(&mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    // Only then does reading its standard error come to an end.
                    let _ = self.child.kill();
                    let stderr = self.stderr();
                    panic!("does not end; seen:\n{}\n{stderr}", self.seen.join("\n"));
                }
            }
        }
        let stderr = self.stderr();
        (self.child.wait().unwrap(), stderr)
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut text).unwrap();
        }
        text
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, with nothing of this process's configuration.
pub(crate) fn hashpool() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hashpool"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HASHPOOL_") {
            command.env_remove(name);
        }
    }
    command
}

/// An SV1 miner in a process of its own.
pub(crate) struct Miner(Child);

impl Miner {
    pub(crate) fn start(translator: &str, user: &str) -> Self {
        let child = hashpool()
            .args(["miner", "--set", &format!("address={translator}")])
            .args(["--set", &format!("user={user}"), "--set", "threads=1"])
            .args(["--set", "hashrate_limit=500000"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the last column of places holds: `http://127.0.0.1:8081` without `http://`, of the row that begins with a name.
pub(crate) fn place(up: &mut Up, name: &str) -> String {
    let is_row = |line: &str| line.split_whitespace().next() == Some(name);
    let seen = up.seen.iter().find(|line| is_row(line)).cloned();
    let row = seen.unwrap_or_else(|| up.wait_for(is_row));
    let address = row.split_whitespace().nth(1).unwrap();
    address.trim_start_matches("http://").to_owned()
}

/// A page or an answer, as text.
pub(crate) fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
    body.to_owned()
}

pub(crate) fn json(address: &str, path: &str) -> Value {
    serde_json::from_str(&get(address, path)).unwrap()
}

/// Looks until there is something to see.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(started.elapsed() < PATIENCE, "{what}: not seen");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Ports that the system chooses, so that tests can run beside each other.
pub(crate) const FREE_PORTS: [&str; 16] = [
    "--set",
    "pool.listen_address=127.0.0.1:0",
    "--set",
    "pool.http_address=127.0.0.1:0",
    "--set",
    "translator.listen_address=127.0.0.1:0",
    "--set",
    "translator.http_address=127.0.0.1:0",
    "--set",
    "pool-stats.listen_address=127.0.0.1:0",
    "--set",
    "pool-stats.http_address=127.0.0.1:0",
    "--set",
    "proxy-stats.listen_address=127.0.0.1:0",
    "--set",
    "proxy-stats.http_address=127.0.0.1:0",
];
