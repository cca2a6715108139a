//! A relay's bills, with the relay as a process that is killed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// No test waits so long unless it fails.
const PATIENCE: Duration = Duration::from_secs(60);

fn hashpool() -> Command {
    Command::new(env!("CARGO_BIN_EXE_hashpool"))
}

/// A pool that accepts every share of difficulty 1.
fn start_pool() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let reader = BufReader::new(stream.try_clone().unwrap());
                for line in reader.lines().map_while(Result::ok) {
                    let id = line.trim_start_matches("{\"id\":");
                    let id = id.split(',').next().unwrap().to_owned();
                    let answer = format!("{{\"id\":{id},\"result\":true,\"error\":null}}\n");
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

struct Place {
    folder: TempDir,
    pool: SocketAddr,
}

struct Relay {
    child: Child,
    address: SocketAddr,
}

impl Place {
    fn storage(&self) -> String {
        let file = self.folder.path().join("relay.sqlite");
        format!("storage.url=sqlite:{}", file.display())
    }

    fn start(&self) -> Relay {
        let pools = format!("pools=[{{ name = 'a', address = '{}' }}]", self.pool);
        let mut child = hashpool()
            .arg("relay")
            .args(["--set", "listen_address=127.0.0.1:0"])
            .args(["--set", "http_address=off"])
            .args(["--set", "storage.commit_interval_seconds=1"])
            .args(["--set", "drain_seconds=0"])
            .args(["--set", &pools])
            .args(["--set", &self.storage()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut lines = log.lines().map_while(Result::ok);
        let address = lines
            .find_map(|line| {
                let listening = line.contains("listening for SV1 miners");
                let (_, address) = line.split_once("address=").filter(|_| listening)?;
                address.split_whitespace().next()?.parse().ok()
            })
            .expect("the relay's address in its log");
        // So that the pipe is never full.
        thread::spawn(move || lines.for_each(drop));
        Relay { child, address }
    }

    /// `client,bytes_sent,...` of the unknown client; none before anything is written.
    fn bill(&self) -> Option<Vec<u64>> {
        let output = hashpool()
            .args(["relay", "bill", "--format", "csv", "--from", "2d", "--set"])
            .arg(self.storage())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("unknown,"))?;
        let numbers = line.split(',').take(6);
        Some(numbers.map(|number| number.parse().unwrap()).collect())
    }

    fn billed(&self, wanted: impl Fn(&[u64]) -> bool) -> Vec<u64> {
        let begun = Instant::now();
        loop {
            let bill = self.bill();
            if let Some(bill) = bill.as_ref().filter(|bill| wanted(bill)) {
                return bill.clone();
            }
            assert!(begun.elapsed() < PATIENCE, "{bill:?}");
        }
    }
}

impl Relay {
    /// Sends so many shares, and gives back the bytes there and back when all are answered.
    fn mine(&mut self, shares: u64) -> [u64; 2] {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = [0, 0];
        for id in 0..shares {
            let submit = format!(
                "{{\"id\":{id},\"method\":\"mining.submit\",\"params\":[\"a\",\"j\",\"00\",\"00000000\",\"00000000\"]}}\n"
            );
            stream.write_all(submit.as_bytes()).unwrap();
            let answer = format!("{{\"id\":{id},\"result\":true,\"error\":null}}\n");
            let mut heard = vec![0; answer.len()];
            stream.read_exact(&mut heard).unwrap();
            assert_eq!(heard, answer.as_bytes());
            bytes[0] += submit.len() as u64;
            bytes[1] += answer.len() as u64;
        }
        bytes
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn stop(mut self) {
        let id = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(asked.success());
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn what_was_billed_survives_a_kill_and_nothing_is_billed_twice() {
    let place = Place {
        folder: tempfile::tempdir().unwrap(),
        pool: start_pool(),
    };
    assert_eq!(place.bill(), None);
    let mut sums = [0; 2];
    let mut shares = 0;
    for (count, killed) in [(5, true), (3, true), (7, false)] {
        let mut relay = place.start();
        let bytes = relay.mine(count);
        sums = [sums[0] + bytes[0], sums[1] + bytes[1]];
        shares += count;
        if killed {
            // Within an interval, while it runs.
            place.billed(|bill| bill[3] == shares);
            relay.kill();
        } else {
            relay.stop();
        }
        let bill = place.bill().unwrap();
        let work = shares * u64::try_from(work::Difficulty::ONE.target().work()).unwrap();
        assert_eq!(bill, [sums[0], sums[1], shares, shares, 0, work]);
    }
}

/// A bill is printed by people who may not read the relay's keys.
#[test]
fn a_bill_needs_the_storage_of_the_configuration_alone() {
    let place = Place {
        folder: tempfile::tempdir().unwrap(),
        pool: start_pool(),
    };
    let mut relay = place.start();
    relay.mine(1);
    relay.stop();
    let output = hashpool()
        .args([
            "relay",
            "bill",
            "--set",
            "tls.listen_address=127.0.0.1:3443",
        ])
        .args(["--set", "tls.key_file=/nowhere/key.pem"])
        .args(["--set", "tls.certificate_file=/nowhere/certificate.pem"])
        .args(["--set", &place.storage()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("unknown"), "{printed}");
}
