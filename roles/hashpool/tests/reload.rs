//! SIGHUP, as the real binary takes it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Only a process that hangs takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn sighup_loads_another_certificate_and_keeps_connections() {
    let folder = tempfile::tempdir().unwrap();
    let first = write_certificate(&folder);
    let translator = Process::start(folder.path());
    let mut miner = translator.connect(&first).await.unwrap();
    ping(&mut miner).await;

    let second = write_certificate(&folder);
    translator.hang_up();
    translator.wait_for("TLS certificate loaded");
    ping(&mut translator.connect(&second).await.unwrap()).await;
    assert!(translator.connect(&first).await.is_err());

    std::fs::write(folder.path().join("cert.pem"), "nonsense").unwrap();
    translator.hang_up();
    let line = translator.wait_for("TLS certificate not loaded");
    assert!(line.contains("cert.pem"), "{line}");
    ping(&mut translator.connect(&second).await.unwrap()).await;
    // The first of all is still there.
    ping(&mut miner).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_all_can_read_is_warned_about() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    write_certificate(&folder);
    let key = folder.path().join("key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let translator = Process::start(folder.path());
    assert!(!translator.seen_before_listening.contains("chmod"));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    translator.hang_up();
    let line = translator.wait_for("chmod 600");
    assert!(line.contains("key.pem"), "{line}");
}

#[test]
fn a_role_that_has_nothing_to_read_again_stays() {
    let mut miner = Command::new(env!("CARGO_BIN_EXE_hashpool"))
        .args(["miner", "--set", "address=127.0.0.1:1"])
        .args(["--set", "user=a", "--set", "threads=1"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // It runs when it says something.
    let mut log = BufReader::new(miner.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    let id = miner.id().to_string();
    for signal in ["-HUP", "-TERM"] {
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(sent.success());
    }
    io::copy(&mut log, &mut io::sink()).unwrap();
    let status = miner.wait().unwrap();
    assert!(status.success(), "{status} after {line}");
}

/// A translator without a pool, which answers miners all the same.
struct Process {
    child: Child,
    tls: SocketAddr,
    log: Receiver<String>,
    seen_before_listening: String,
}

impl Process {
    fn start(folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hashpool"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HASHPOOL_") {
                command.env_remove(name);
            }
        }
        let file = |key: &str, name: &str| format!("{key}={}", folder.join(name).display());
        let mut child = command
            .args(["translator", "--log-format", "json"])
            .args(["--set", "listen_address=127.0.0.1:0"])
            .args(["--set", "http_address=off"])
            .args(["--set", "tls.listen_address=127.0.0.1:0"])
            .args(["--set", &file("tls.certificate_file", "cert.pem")])
            .args(["--set", &file("tls.key_file", "key.pem")])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = channel();
        // Until the process ends.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut seen = String::new();
        let tls = loop {
            let line = log
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("{seen}"));
            if line.contains("over TLS") {
                let address = line.split_once("\"address\":\"").unwrap().1;
                break address.split('"').next().unwrap().parse().unwrap();
            }
            seen += &line;
        };
        Self {
            child,
            tls,
            log,
            seen_before_listening: seen,
        }
    }

    fn hang_up(&self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-HUP", &pid]).status();
        assert!(sent.unwrap().success());
    }

    fn wait_for(&self, words: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE).expect(words);
            if line.contains(words) {
                return line;
            }
        }
    }

    async fn connect(&self, trusted: &CertificateDer<'static>) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.tls).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        timeout(PATIENCE, connecting).await.expect("a handshake")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn ping(miner: &mut TlsStream<TcpStream>) {
    let line = b"{\"id\":7,\"method\":\"mining.ping\",\"params\":[]}\n";
    miner.write_all(line).await.unwrap();
    let mut answer = [0; 256];
    let read = timeout(PATIENCE, miner.read(&mut answer)).await;
    let size = read.expect("an answer").unwrap();
    let answer = String::from_utf8_lossy(&answer[..size]);
    assert!(answer.contains("\"id\":7"), "{answer}");
}

fn write_certificate(folder: &TempDir) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
    let key = made.signing_key.serialize_pem();
    std::fs::write(folder.path().join("key.pem"), key).unwrap();
    made.cert.der().clone()
}
