//! Miners that come over TLS, and whatever else comes to that port.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use service::http::Address;
use service::listener::{Mode, ProxyProtocol};
use support::{Miner, PoolHouse, Running, in_time};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use translator::Config;

/// A certificate of this test's own, in files.
struct Certificate {
    folder: TempDir,
    der: CertificateDer<'static>,
}

impl Certificate {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let der = Self::write(&folder);
        Self { folder, der }
    }

    /// Another one in the same files; this one's own is forgotten.
    fn replace(&mut self) {
        self.der = Self::write(&self.folder);
    }

    fn write(folder: &TempDir) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(
            folder.path().join("key.pem"),
            made.signing_key.serialize_pem(),
        )
        .unwrap();
        made.cert.der().clone()
    }

    fn configure(&self, config: &mut Config) {
        config.tls.listen_address = Address::At("127.0.0.1:0".parse().unwrap());
        config.tls.certificate_file = self.folder.path().join("cert.pem");
        config.tls.key_file = self.folder.path().join("key.pem");
    }

    /// A client that trusts this certificate alone.
    fn connector(&self, versions: &[&'static SupportedProtocolVersion]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }

    async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        self.connect_with(stream, rustls::ALL_VERSIONS).await
    }

    async fn connect_with<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        versions: &[&'static SupportedProtocolVersion],
    ) -> io::Result<TlsStream<S>> {
        let name = ServerName::try_from("localhost").unwrap();
        let connecting = self.connector(versions).connect(name, stream);
        in_time("a TLS handshake", connecting).await
    }

    async fn miner(&self, translator: &Running) -> Miner {
        Miner::over(self.connect(call(translator).await).await.unwrap())
    }
}

async fn call(translator: &Running) -> TcpStream {
    TcpStream::connect(translator.tls.unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_miner_mines_over_tls_of_either_version() {
    let certificate = Certificate::new();
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| {
        certificate.configure(config);
    })
    .await;
    let mut pool = house.accept().await;
    for (number, version) in [(1, &rustls::version::TLS12), (2, &rustls::version::TLS13)] {
        let stream = call(&translator).await;
        let stream = certificate.connect_with(stream, &[version]).await.unwrap();
        let expected = match number {
            1 => ProtocolVersion::TLSv1_2,
            _ => ProtocolVersion::TLSv1_3,
        };
        assert_eq!(stream.get_ref().1.protocol_version(), Some(expected));
        let mut miner = Miner::over(stream);
        miner.log_in("w").await;
        let (channel, _) = pool.open_channel(&[number]).await;
        let job = miner.notify().await.job_id;
        assert_eq!(miner.submit("w", &job, 1).await["result"], true);
        pool.share().await;
        pool.acknowledge(channel, 1, 1).await;
        translator
            .until("the answer", |status| {
                status.shares.accepted == u64::from(number) && status.connected == 1
            })
            .await;
        drop(miner);
        translator
            .until("the end", |status| status.connected == 0)
            .await;
        pool.next().await;
    }
    let closed = translator.status.snapshot().disconnected["closed"];
    assert_eq!(closed, 2);
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_a_wrong_one_for_none() {
    let mut certificate = Certificate::new();
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| {
        certificate.configure(config);
    })
    .await;
    let mut pool = house.accept().await;
    let mut miner = certificate.miner(&translator).await;
    miner.log_in("w").await;
    pool.open_channel(&[1]).await;
    let job = miner.notify().await.job_id;

    certificate.replace();
    // Nobody has asked for it to be read.
    let before = certificate.connect(call(&translator).await).await;
    assert!(before.is_err(), "the certificate is read by itself");
    translator.reloader.reload().unwrap();
    let mut other = certificate.miner(&translator).await;
    other.log_in("x").await;
    assert_eq!(miner.submit("w", &job, 1).await["result"], true);

    for (file, content) in [
        ("cert.pem", None),
        ("cert.pem", Some("nonsense")),
        (
            "key.pem",
            Some("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        ),
        ("key.pem", Some("")),
    ] {
        let path = certificate.folder.path().join(file);
        let good = std::fs::read(&path).unwrap();
        match content {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let error = translator.reloader.reload().unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        let mut still = certificate.miner(&translator).await;
        still.log_in("y").await;
        std::fs::write(&path, good).unwrap();
    }
    // A key that is none of this certificate's.
    let another = Certificate::new();
    let key = certificate.folder.path().join("key.pem");
    std::fs::copy(another.folder.path().join("key.pem"), &key).unwrap();
    let error = translator.reloader.reload().unwrap_err().to_string();
    assert!(error.contains(key.to_str().unwrap()), "{error}");
    let mut still = certificate.miner(&translator).await;
    still.log_in("z").await;
    assert_eq!(miner.submit("w", &job, 2).await["result"], true);
}

#[tokio::test]
async fn a_certificate_that_is_not_there_is_named_at_the_start() {
    let mut config = Config {
        listen_address: "127.0.0.1:0".parse().unwrap(),
        ..Config::default()
    };
    config.tls.listen_address = Address::At("127.0.0.1:0".parse().unwrap());
    let error = translator::Translator::bind(config.clone())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("tls.certificate_file"),
        "{error}"
    );
    config.tls.certificate_file = "missing.pem".into();
    config.tls.key_file = "missing.key".into();
    let error = translator::Translator::bind(config).await.unwrap_err();
    assert!(error.to_string().contains("missing.pem"), "{error}");
}

#[tokio::test]
async fn records_that_come_byte_by_byte_are_read() {
    let certificate = Certificate::new();
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| {
        certificate.configure(config);
    })
    .await;
    let mut pool = house.accept().await;
    let wire = ByteByByte(call(&translator).await);
    let mut miner = Miner::over(certificate.connect(wire).await.unwrap());
    miner.log_in("w").await;
    pool.open_channel(&[1]).await;
    let job = miner.notify().await.job_id;
    assert_eq!(miner.submit("w", &job, 1).await["result"], true);
}

#[tokio::test]
async fn a_miner_that_says_all_at_once_is_answered_in_order() {
    let certificate = Certificate::new();
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| {
        certificate.configure(config);
    })
    .await;
    // Several full records, and lines across their borders.
    let mut miner = certificate.miner(&translator).await;
    let mut lines = String::new();
    for id in 0..2000 {
        lines += &format!("{{\"id\":{id},\"method\":\"mining.ping\",\"params\":[]}}\n");
    }
    let writing = miner.write_bytes(lines.as_bytes());
    in_time("the translator to read", writing).await;
    for id in 0..2000 {
        assert_eq!(miner.read().await.unwrap()["id"], id);
    }
}

#[tokio::test]
async fn whoever_stalls_the_handshake_is_let_go() {
    let certificate = Certificate::new();
    let translator = Running::start(vec![PoolHouse::new().await.upstream()], |config| {
        certificate.configure(config);
        config.setup_timeout_seconds = 1;
    })
    .await;
    let silent = call(&translator).await;
    let mut half = call(&translator).await;
    // The beginning of a handshake record, and no more.
    half.write_all(&[22, 3, 1, 2, 0, 1, 0, 1]).await.unwrap();
    for mut stream in [silent, half] {
        let read = in_time("the end", stream.read(&mut [0])).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    translator
        .until("both gone", |status| {
            status.disconnected.get("setup-timeout") == Some(&2)
        })
        .await;
}

#[tokio::test]
async fn a_miner_that_speaks_plain_is_told_so() {
    let certificate = Certificate::new();
    let translator = Running::start(vec![PoolHouse::new().await.upstream()], |config| {
        certificate.configure(config);
    })
    .await;
    let mut miner = Miner::over(call(&translator).await);
    let answer = miner
        .ask(r#"{"id":1,"method":"mining.subscribe","params":[]}"#)
        .await;
    let words = answer["error"][1].as_str().unwrap();
    assert!(words.contains("TLS"), "{words}");
    assert_eq!(miner.read().await, None);
    translator
        .until("its end", |status| {
            status.disconnected.get("not-tls") == Some(&1)
        })
        .await;
}

#[tokio::test]
async fn garbage_costs_only_whoever_sends_it() {
    let certificate = Certificate::new();
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| {
        certificate.configure(config);
    })
    .await;
    let mut pool = house.accept().await;
    let mut honest = translator.miner().await;
    honest.log_in("honest").await;
    pool.open_channel(&[1]).await;
    let job = honest.notify().await.job_id;

    let beginnings: [(&[u8], &str); 4] = [
        (b"", "not-tls"),
        // A handshake record that is none, one that is too long, and one in a version that does not exist.
        (&[22, 3, 1, 0, 9], "tls"),
        (&[22, 3, 1, 0xff, 0xff], "tls"),
        (&[22, 9, 9, 0, 9], "tls"),
    ];
    for (nonce, (beginning, reason)) in (1..).zip(beginnings) {
        let before = translator
            .status
            .snapshot()
            .disconnected
            .get(reason)
            .copied();
        let mut stream = call(&translator).await;
        let refused = in_time("the translator to hang up", async {
            stream.write_all(beginning).await?;
            let garbage = vec![0xa5; 1024 * 1024];
            for _ in 0..100 {
                stream.write_all(&garbage).await?;
            }
            io::Result::Ok(())
        });
        assert!(refused.await.is_err(), "all of it was taken");
        assert_eq!(honest.submit("honest", &job, nonce).await["result"], true);
        translator
            .until("the end", |status| {
                status.disconnected.get(reason).copied() > before
            })
            .await;
    }
}

#[tokio::test]
async fn garbage_after_the_handshake_ends_the_connection() {
    let certificate = Certificate::new();
    let translator = Running::start(vec![PoolHouse::new().await.upstream()], |config| {
        certificate.configure(config);
    })
    .await;
    let mut stream = certificate.connect(call(&translator).await).await.unwrap();
    // Beside TLS, in the form of a record that does not open.
    let mut record = vec![23, 3, 3, 0, 100];
    record.extend([7; 100]);
    stream.get_mut().0.write_all(&record).await.unwrap();
    let error = in_time("the end", stream.read(&mut [0])).await;
    // The alert says why.
    let error = error.unwrap_err().to_string();
    assert!(error.contains("BadRecordMac"), "{error}");
    translator
        .until("its end", |status| {
            status.disconnected.get("tls") == Some(&1)
        })
        .await;
}

#[tokio::test]
async fn a_miner_that_leaves_within_a_record_is_gone() {
    let certificate = Certificate::new();
    let translator = Running::start(vec![PoolHouse::new().await.upstream()], |config| {
        certificate.configure(config);
    })
    .await;
    let mut stream = certificate.connect(call(&translator).await).await.unwrap();
    stream
        .get_mut()
        .0
        .write_all(&[23, 3, 3, 0, 100, 7])
        .await
        .unwrap();
    drop(stream);
    translator
        .until("its end", |status| {
            status.disconnected.get("closed") == Some(&1)
        })
        .await;
}

#[tokio::test]
async fn a_miner_that_does_not_read_is_cut_off_over_tls_too() {
    let certificate = Certificate::new();
    let translator = Running::start(vec![PoolHouse::new().await.upstream()], |config| {
        certificate.configure(config);
        config.write_timeout_seconds = 1;
        config.lines_per_second = 0;
    })
    .await;
    let miner = certificate.miner(&translator).await;
    let flood = miner.flood(r#"{"id":1,"method":"mining.ping","params":[]}"#);
    in_time("the translator to hang up", flood).await;
    translator
        .until("its end", |status| {
            status.disconnected.get("write-timeout") == Some(&1)
        })
        .await;
}

#[tokio::test]
async fn the_end_is_said_in_tls() {
    let certificate = Certificate::new();
    let translator = Running::start(vec![PoolHouse::new().await.upstream()], |config| {
        certificate.configure(config);
    })
    .await;
    let mut stream = certificate.connect(call(&translator).await).await.unwrap();
    let ping = b"{\"id\":1,\"method\":\"mining.ping\",\"params\":[]}\n";
    stream.write_all(ping).await.unwrap();
    assert!(
        in_time("an answer", stream.read(&mut [0; 1024]))
            .await
            .unwrap()
            > 0
    );
    translator.shutdown.cancel();
    // Without close_notify this is an error: the end could have been anybody's.
    let mut last = String::new();
    let read = in_time("the end", stream.read_to_string(&mut last)).await;
    read.unwrap();
    assert!(last.contains("client.reconnect"), "{last}");
}

#[tokio::test]
async fn a_load_balancer_says_who_calls_before_the_handshake() {
    let certificate = Certificate::new();
    let translator = Running::start(vec![PoolHouse::new().await.upstream()], |config| {
        certificate.configure(config);
        config.proxy_protocol = ProxyProtocol {
            mode: Mode::Required,
            trusted_networks: vec!["127.0.0.1".parse().unwrap()],
            ..ProxyProtocol::default()
        };
    })
    .await;
    let mut stream = call(&translator).await;
    let header = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 34256\r\n";
    stream.write_all(header).await.unwrap();
    let mut miner = Miner::over(certificate.connect(stream).await.unwrap());
    miner.log_in("w").await;
    let address = translator.status.snapshot().miners[0].address;
    assert_eq!(address.to_string(), "192.0.2.7:4711");
}

#[tokio::test]
async fn both_ports_share_the_limits() {
    let certificate = Certificate::new();
    let translator = Running::start(vec![PoolHouse::new().await.upstream()], |config| {
        certificate.configure(config);
        config.limits.connections_per_address = 1;
    })
    .await;
    let mut miner = certificate.miner(&translator).await;
    miner.log_in("w").await;
    let mut refused = translator.miner().await;
    assert_eq!(refused.read().await, None);
    assert_eq!(translator.status.snapshot().listener.refused_per_address, 1);
}

/// Sends one byte at a time.
struct ByteByByte(TcpStream);

impl AsyncRead for ByteByByte {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ByteByByte {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let one = &bytes[..bytes.len().min(1)];
        Pin::new(&mut self.0).poll_write(cx, one)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
