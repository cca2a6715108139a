//! `hashpool up` as somebody who tries it out meets it.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// Far more than any step takes; only a stack that hangs gets there.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running stack and what it printed so far.
struct Up {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Up {
    fn start(data: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hashpool"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HASHPOOL_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(["up", "--threads", "1", "--data"])
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

    fn wait_for(&mut self, what: impl Fn(&str) -> bool) -> String {
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

    fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &command]).status().unwrap();
        assert!(sent.success());
    }

    fn ended(&mut self) -> (ExitStatus, String) {
        self.seen.extend(self.lines.iter());
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

/// Ports that the system chooses, so that tests can run beside each other.
const FREE_PORTS: [&str; 8] = [
    "--set",
    "pool.listen_address=127.0.0.1:0",
    "--set",
    "pool.http_address=127.0.0.1:0",
    "--set",
    "translator.listen_address=127.0.0.1:0",
    "--set",
    "translator.http_address=127.0.0.1:0",
];

#[test]
fn it_mines_blocks_out_of_the_box_and_stops_with_totals() {
    let data = tempfile::tempdir().unwrap();
    let mut up = Up::start(data.path(), &FREE_PORTS);
    for role in ["pool", "translator"] {
        up.wait_for(|line| line.contains("http://127.0.0.1:") && line.contains(role));
    }
    up.wait_for(|line| line.contains("point a miner at stratum+tcp://127.0.0.1:"));
    up.wait_for(|line| line.contains(" found: "));
    let status = up.wait_for(|line| line.contains("  shares ") && !line.contains("  shares 0 "));
    assert!(status.contains(" 0 lost"), "{status}");
    up.signal("INT");
    let (status, stderr) = up.ended();
    assert_eq!(status.code(), Some(0), "{stderr}");
    let totals = up.seen.last().unwrap();
    assert!(totals.starts_with("stopped after "), "{totals}");
    assert!(!totals.contains(" 0 shares accepted"), "{totals}");
    assert!(!stderr.contains("ERROR"), "{stderr}");
}

#[test]
fn a_port_in_use_ends_it_with_the_port_and_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = tempfile::tempdir().unwrap();
    let set = format!("translator.listen_address={address}");
    let arguments = [
        "--set",
        "pool.listen_address=127.0.0.1:0",
        "--set",
        "pool.http_address=off",
        "--set",
        &set,
    ];
    let (status, stderr) = Up::start(data.path(), &arguments).ended();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for part in [address.as_str(), "--set translator.listen_address="] {
        assert!(stderr.contains(part), "{part} not in {stderr}");
    }
}

#[test]
fn a_key_of_no_role_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let (status, stderr) = Up::start(data.path(), &["--set", "listen_address=127.0.0.1:1"]).ended();
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("pool.listen_address"), "{stderr}");
}

#[test]
fn a_node_that_is_no_url_is_refused_without_printing_it() {
    let data = tempfile::tempdir().unwrap();
    let (status, stderr) = Up::start(data.path(), &["--node", "me:hunter2@host"]).ended();
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("--node") && !stderr.contains("hunter2"),
        "{stderr}"
    );
}
