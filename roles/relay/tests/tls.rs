//! TLS to miners and to pools.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use relay::{Config, Tls};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use service::http::Address;
use support::{Pools, any_port, config, in_time, start};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

struct Identity {
    folder: TempDir,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
        let key = made.signing_key.serialize_pem();
        std::fs::write(folder.path().join("key.pem"), key).unwrap();
        Self {
            folder,
            certificate: made.cert.der().clone(),
            key: PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into()),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tls(&self) -> Tls {
        Tls {
            listen_address: Address::At(any_port()),
            certificate_file: self.file("cert.pem"),
            key_file: self.file("key.pem"),
            ..Tls::default()
        }
    }

    fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    async fn connect(
        &self,
        address: std::net::SocketAddr,
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap()
    }
}

/// Bytes of which no two neighbourhoods are alike, so that none can be lost or change places unnoticed.
fn much() -> Vec<u8> {
    (0..600_000_u32).flat_map(u32::to_le_bytes).collect()
}

#[tokio::test]
async fn bytes_pass_unchanged_through_tls_on_both_sides() {
    let (to_miner, to_pool) = (Identity::new(), Identity::new());
    let pools = Pools::new().await;
    let mut config = Config {
        tls: to_miner.tls(),
        ..config(&[pools.address()])
    };
    config.pools[0].address = format!("localhost:{}", pools.address().port());
    config.pools[0].tls = true;
    config.pools[0].ca_file = Some(to_pool.file("cert.pem"));
    let relay = start(config).await;
    let (miner, pool) = in_time("both handshakes", async {
        tokio::join!(to_miner.connect(relay.addresses[1]), async {
            let (stream, _) = pools.0.accept().await.unwrap();
            to_pool.acceptor().accept(stream).await.unwrap()
        })
    })
    .await;
    let (mut miner_reads, mut miner_writes) = tokio::io::split(miner);
    let (mut pool_reads, mut pool_writes) = tokio::io::split(pool);
    let bytes = much();
    let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
    in_time("all bytes", async {
        let (mut at_pool, mut at_miner) = (Vec::new(), Vec::new());
        let (up, down, heard_up, heard_down) = tokio::join!(
            async {
                miner_writes.write_all(&bytes).await?;
                miner_writes.shutdown().await
            },
            async {
                pool_writes.write_all(&reversed).await?;
                pool_writes.shutdown().await
            },
            pool_reads.read_to_end(&mut at_pool),
            miner_reads.read_to_end(&mut at_miner),
        );
        up.unwrap();
        down.unwrap();
        heard_up.unwrap();
        heard_down.unwrap();
        assert!(at_pool == bytes && at_miner == reversed);
    })
    .await;
    relay
        .until("the end", |handle| handle.connections().is_empty())
        .await;
    let totals = relay.handle.totals()["unknown"].clone();
    assert_eq!(totals.bytes_sent, bytes.len() as u64);
    assert_eq!(totals.bytes_received, bytes.len() as u64);
}

#[tokio::test]
async fn a_pool_that_cannot_prove_its_name_gets_no_miner() {
    let (right, wrong) = (Identity::new(), Identity::new());
    let pools = Pools::new().await;
    let mut config = config(&[pools.address()]);
    config.pools[0].address = format!("localhost:{}", pools.address().port());
    config.pools[0].tls = true;
    config.pools[0].ca_file = Some(right.file("cert.pem"));
    let relay = start(config).await;
    let mut miner = relay.connect().await;
    let (stream, _) = in_time("the relay", pools.0.accept()).await.unwrap();
    let handshake = in_time("a handshake", wrong.acceptor().accept(stream)).await;
    assert!(handshake.is_err());
    assert_eq!(miner.hear().await, None);
    let failures = &relay.handle.pools()[0].failures;
    assert!(failures["tls"] >= 1, "{failures:?}");
}

#[tokio::test]
async fn whoever_speaks_no_tls_on_its_port_reaches_no_pool() {
    let identity = Identity::new();
    let pools = Pools::new().await;
    let relay = start(Config {
        tls: identity.tls(),
        ..config(&[pools.address()])
    })
    .await;
    let mut miner = support::Peer::new(TcpStream::connect(relay.addresses[1]).await.unwrap());
    miner
        .say("{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[]}")
        .await;
    relay
        .until("the end", |handle| {
            handle.totals()["unknown"].connections == 1 && handle.connections().is_empty()
        })
        .await;
    assert_eq!(relay.handle.pools()[0].connections, 0);
}

#[tokio::test]
async fn a_miner_is_served_over_tls_while_others_come_without() {
    let identity = Identity::new();
    let pools = Pools::new().await;
    let relay = start(Config {
        tls: identity.tls(),
        ..config(&[pools.address()])
    })
    .await;
    let mut plain = relay.connect().await;
    let mut first = pools.accept().await;
    plain.say("plain").await;
    assert_eq!(first.hear().await.as_deref(), Some("plain"));
    let mut secured = in_time("a handshake", identity.connect(relay.addresses[1])).await;
    let mut second = pools.accept().await;
    secured.write_all(b"secured\n").await.unwrap();
    assert_eq!(second.hear().await.as_deref(), Some("secured"));
    second.say("answer").await;
    let mut answer = [0; 7];
    in_time("an answer", secured.read_exact(&mut answer))
        .await
        .unwrap();
    assert_eq!(&answer, b"answer\n");
}
