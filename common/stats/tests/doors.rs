//! What a stats service promises about its ports: who is let in, and what a second service with the same ones does.
#![cfg(all(feature = "service", feature = "sender"))]
#![allow(clippy::unwrap_used)]

#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "other tests need the rest"
)]
mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use stats::receiver::Receiver;
use stats::sender::{self, Source};
use stats::state::Link;
use stats_events::Event;
use support::{Client, Database, Service, config, hello};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// A role that nothing happens in.
struct Quiet;

impl Source for Quiet {
    fn present(&self, show: &mut dyn FnMut(Event)) {
        show(support::service(1));
    }

    fn happened(&self, _most: usize) -> Vec<Event> {
        Vec::new()
    }
}

/// A certificate with its key, in files.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn certificate(&self) -> PathBuf {
        self.0.path().join("certificate.pem")
    }

    fn key(&self) -> PathBuf {
        self.0.path().join("key.pem")
    }

    /// Issues a new one in the place of the old one.
    fn issue(&self) {
        let issued = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        fs::write(self.certificate(), issued.cert.pem()).unwrap();
        fs::write(self.key(), issued.signing_key.serialize_pem()).unwrap();
    }
}

/// Connects a sender of this name that trusts the certificate that there is now.
async fn connects(service: &Service, name: &str, files: &Files) {
    let trusted = tempfile::NamedTempFile::new().unwrap();
    fs::copy(files.certificate(), trusted.path()).unwrap();
    let telling = sender::Config {
        address: service.address.to_string(),
        name: name.to_owned(),
        tls: true,
        ca_file: Some(trusted.path().to_owned()),
        interval_ms: 100,
        ..sender::Config::default()
    };
    let stop = CancellationToken::new();
    let running = sender::start(&telling, "pool", Arc::new(Quiet), stop.clone()).unwrap();
    service.until_link(name, Link::Up).await;
    stop.cancel();
    running.unwrap().ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_shown_without_a_restart_and_a_broken_one_is_not() {
    let (database, files) = (Database::sqlite(), Files::new());
    files.issue();
    let mut config = config(&database);
    config.tls.certificate_file = Some(files.certificate());
    config.tls.key_file = Some(files.key());
    let service = Service::run(config).await;
    let certificate = service.certificate.clone().unwrap();
    // Those who connect and say nothing keep nobody waiting.
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(TcpStream::connect(service.address).await.unwrap());
    }
    connects(&service, "a", &files).await;
    files.issue();
    certificate.reload().unwrap();
    connects(&service, "b", &files).await;
    let good = fs::read(files.key()).unwrap();
    fs::write(files.key(), "nothing").unwrap();
    let error = certificate.reload().unwrap_err().to_string();
    assert!(error.contains("key.pem"), "{error}");
    connects(&service, "c", &files).await;
    fs::write(files.key(), good).unwrap();
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_finds_a_port_taken_leaves_the_database_to_the_one_that_has_it() {
    let database = Database::sqlite();
    let one = Service::start(&database).await;
    let (mut client, _) = Client::connect(one.address, &hello("a", "1")).await;
    let same_senders = {
        let mut config = config(&database);
        config.listen_address = one.address;
        config
    };
    let same_pages = {
        let mut config = config(&database);
        config.http_address = one.http.to_string().parse().unwrap();
        config
    };
    for (sequence, config) in [(1, same_senders), (2, same_pages)] {
        let error = Receiver::bind(config).await.err().unwrap().to_string();
        assert!(error.contains("in use"), "{error}");
        client.tell(sequence, support::service(sequence)).await;
        client.acked(sequence).await;
    }
    assert_eq!(one.get("/readyz").await.0, 200);
    one.stop().await;
}
