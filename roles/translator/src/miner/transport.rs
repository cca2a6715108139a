//! How bytes travel between a miner and its session: as they are, or in TLS.
//!
//! TLS has no stream of its own here. Bytes are read into, opened in and sealed in buffers of the worker thread, so that an
//! idle connection owns no buffer over TLS either. It keeps at most one unfinished record that came, and what the socket
//! has not taken of one that goes out.

use std::cell::RefCell;
use std::io::{self, Read as _};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use socket2::SockRef;
use stratum_v1::{ErrorCode, Id, write_error};
use sv2_connection::Gate;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::End;

/// Bytes read at once, into a buffer of the worker thread: some forty shares, after which others have their turn.
const READ_SIZE: usize = 4 * 1024;

/// The most of a record that may be unfinished: RFC 8446, 5.2, with the larger expansion of RFC 5246, 6.2.3. What a client
/// says in a handshake is far smaller.
const MAX_RECORD: usize = 5 + 16 * 1024 + 2048;

/// Bytes sealed at once: a full record.
const MAX_PLAIN: usize = 16 * 1024;

/// The first byte of a TLS connection: a handshake record.
const HANDSHAKE_RECORD: u8 = 22;

thread_local! {
    pub(super) static READ: RefCell<ReadBuffers> = const { RefCell::new(ReadBuffers::new()) };
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What is read and opened; belongs to the worker thread.
#[derive(Debug)]
pub(super) struct ReadBuffers {
    wire: Vec<u8>,
    plain: Vec<u8>,
}

impl ReadBuffers {
    const fn new() -> Self {
        Self {
            wire: Vec::new(),
            plain: Vec::new(),
        }
    }
}

/// How bytes travel.
pub(crate) enum Transport {
    /// As they are.
    Plain,
    /// In TLS, after the handshake.
    Tls(Box<Tls>),
}

impl Transport {
    /// What the miner says, if the socket has something; over TLS that may be no byte yet. Where nobody may have been told
    /// that it has something, it is to be asked `unannounced`.
    pub(super) fn read<'b>(
        &mut self,
        stream: &TcpStream,
        buffers: &'b mut ReadBuffers,
        unannounced: bool,
    ) -> Result<Option<&'b [u8]>, End> {
        let size = match try_read(stream, &mut buffers.wire)? {
            None if unannounced => read_unannounced(stream, &mut buffers.wire)?,
            announced => announced,
        };
        let Some(size) = size else { return Ok(None) };
        let received = &mut buffers.wire[..size];
        match self {
            Self::Plain => Ok(Some(received)),
            Self::Tls(tls) => {
                tls.open(received, &mut buffers.plain)?;
                Ok(Some(&buffers.plain))
            }
        }
    }

    /// How many of the bytes are on their way; `None` while the socket takes no more. Over TLS a record counts when all of
    /// it has gone, so the next call must begin with the same bytes.
    pub(super) fn write(&mut self, stream: &TcpStream, bytes: &[u8]) -> Result<Option<usize>, End> {
        match self {
            Self::Plain => try_write(stream, bytes),
            Self::Tls(tls) => tls.write(stream, bytes),
        }
    }

    /// Whether something waits for the socket that is not the session's.
    pub(super) fn has_unsent(&self) -> bool {
        match self {
            Self::Plain => false,
            Self::Tls(tls) => !tls.unsent.is_empty(),
        }
    }

    /// Whether the miner has said that nothing more will come.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Plain => false,
            Self::Tls(tls) => tls.peer_closed,
        }
    }

    /// Says that nothing more will come, as far as the socket takes it at once.
    pub(super) fn close(&mut self, stream: &TcpStream) {
        if let Self::Tls(tls) = self {
            tls.close(stream);
        }
    }
}

/// A TLS connection without its socket.
pub(crate) struct Tls {
    connection: UnbufferedServerConnection,
    /// Bytes that came and are no whole record yet.
    held: Vec<u8>,
    /// Sealed bytes that the socket has not taken.
    unsent: Vec<u8>,
    /// Bytes of the session's that `unsent` ends.
    unsent_plain: usize,
    established: bool,
    peer_closed: bool,
}

impl Tls {
    /// Agrees on keys with a miner that has just connected. What it said together with the end of the handshake comes with
    /// it. How long that may take is up to the caller.
    pub(crate) async fn accept(
        stream: &TcpStream,
        config: Arc<ServerConfig>,
        gate: &Gate,
    ) -> Result<(Box<Self>, Vec<u8>), End> {
        let mut tls = Box::new(Self::new(config)?);
        let result = tls.handshake(stream, gate).await;
        if result.is_err() {
            // The reason, if TLS has words for it.
            let _ = tls.flush(stream);
        }
        result.map(|early| (tls, early))
    }

    fn new(config: Arc<ServerConfig>) -> Result<Self, End> {
        Ok(Self {
            connection: UnbufferedServerConnection::new(config).map_err(failed)?,
            held: Vec::new(),
            unsent: Vec::new(),
            unsent_plain: 0,
            established: false,
            peer_closed: false,
        })
    }

    async fn handshake(&mut self, stream: &TcpStream, gate: &Gate) -> Result<Vec<u8>, End> {
        let mut early = Vec::new();
        let mut begun = false;
        loop {
            while !self.unsent.is_empty() {
                if self.flush(stream)?.is_none() {
                    stream.writable().await.map_err(|_| End::Failed)?;
                }
            }
            if self.established {
                return Ok(early);
            }
            stream.readable().await.map_err(|_| End::Failed)?;
            // Held while a signature and a key agreement are computed, never while the miner is waited for.
            let _place = gate.pass().await;
            READ.with_borrow_mut(|ReadBuffers { wire, plain }| {
                let Some(size) = try_read(stream, wire)? else {
                    return Ok(());
                };
                if !begun && wire[0] != HANDSHAKE_RECORD {
                    explain(stream);
                    return Err(End::NotTls);
                }
                begun = true;
                self.open(&mut wire[..size], plain)?;
                early.extend_from_slice(plain);
                Ok(())
            })?;
        }
    }

    /// Opens what came, into `plain`. What is no whole record yet is kept.
    fn open(&mut self, received: &mut [u8], plain: &mut Vec<u8>) -> Result<(), End> {
        plain.clear();
        if self.held.is_empty() {
            let used = self.advance(received, plain)?;
            self.held.extend_from_slice(&received[used..]);
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(received);
            let used = self.advance(&mut held, plain)?;
            if used < held.len() {
                held.drain(..used);
                self.held = held;
            }
        }
        if self.held.len() > MAX_RECORD {
            tracing::debug!("a TLS handshake message is too long");
            return Err(End::Tls);
        }
        Ok(())
    }

    /// Takes all whole records, and says how many bytes they had.
    fn advance(&mut self, incoming: &mut [u8], plain: &mut Vec<u8>) -> Result<usize, End> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(&mut incoming[used..]);
            let mut resting = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(failed)?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut self.unsent, |out| data.encode(out))?;
                }
                // It is in `unsent`, ahead of all that follows.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.established = true;
                    resting = true;
                }
                Ok(ConnectionState::BlockedHandshake) => resting = true,
                Ok(ConnectionState::PeerClosed) => self.peer_closed = true,
                Ok(ConnectionState::Closed) => {
                    self.peer_closed = true;
                    resting = true;
                }
                // Early data is off, and whatever is new in the library was not asked for.
                Ok(_) => return Err(End::Tls),
                Err(error) => {
                    self.queue_alert(&mut incoming[used..]);
                    return Err(failed(error));
                }
            }
            used += discard;
            if resting {
                return Ok(used);
            }
        }
    }

    /// After a fault of the miner's, what TLS has to say about it comes before all else.
    fn queue_alert(&mut self, incoming: &mut [u8]) {
        if let Ok(ConnectionState::EncodeTlsData(mut data)) =
            self.connection.process_tls_records(incoming).state
        {
            let _ = encode(&mut self.unsent, |out| data.encode(out));
        }
    }

    fn write(&mut self, stream: &TcpStream, bytes: &[u8]) -> Result<Option<usize>, End> {
        if !self.unsent.is_empty() {
            return self.flush(stream);
        }
        SEALED.with_borrow_mut(|sealed| {
            let plain = self.seal(bytes, sealed)?;
            let sent = try_write(stream, sealed)?.unwrap_or(0);
            if sent == sealed.len() {
                return Ok(Some(plain));
            }
            self.unsent.extend_from_slice(&sealed[sent..]);
            self.unsent_plain = plain;
            Ok(None)
        })
    }

    /// Writes what is sealed already; when all of it has gone, says how many bytes of the session's that were.
    fn flush(&mut self, stream: &TcpStream) -> Result<Option<usize>, End> {
        while !self.unsent.is_empty() {
            let Some(sent) = try_write(stream, &self.unsent)? else {
                return Ok(None);
            };
            self.unsent.drain(..sent);
        }
        self.unsent = Vec::new();
        Ok(Some(std::mem::take(&mut self.unsent_plain)))
    }

    /// Seals one record's worth of the bytes into `sealed`, and says how many that are.
    fn seal(&mut self, bytes: &[u8], sealed: &mut Vec<u8>) -> Result<usize, End> {
        let plain = &bytes[..bytes.len().min(MAX_PLAIN)];
        // All whole records have been taken, so this changes nothing and only gives access to writing.
        let status = self.connection.process_tls_records(&mut self.held);
        let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state else {
            return Err(End::Tls);
        };
        sealed.clear();
        encode(sealed, |out| traffic.encrypt(plain, out))?;
        Ok(plain.len())
    }

    fn close(&mut self, stream: &TcpStream) {
        let status = self.connection.process_tls_records(&mut self.held);
        if self.unsent.is_empty()
            && self.established
            && let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state
        {
            let _ = encode(&mut self.unsent, |out| traffic.queue_close_notify(out));
        }
        let _ = self.flush(stream);
    }
}

/// Has `fill` write behind what `out` holds, with as much room as it asks for.
fn encode<E: Into<Room>>(
    out: &mut Vec<u8>,
    mut fill: impl FnMut(&mut [u8]) -> Result<usize, E>,
) -> Result<(), End> {
    let start = out.len();
    let mut room = 0;
    loop {
        out.resize(start + room, 0);
        match fill(&mut out[start..]).map_err(Into::into) {
            Ok(size) => {
                out.truncate(start + size);
                return Ok(());
            }
            // Asked for once; a library that wants more and more is none.
            Err(Room::Needed(needed)) if needed > room => room = needed,
            Err(_) => {
                out.truncate(start);
                return Err(End::Tls);
            }
        }
    }
}

/// Why nothing was encoded.
enum Room {
    Needed(usize),
    Impossible,
}

impl From<EncodeError> for Room {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(size) => Self::Needed(size.required_size),
            EncodeError::AlreadyEncoded => Self::Impossible,
        }
    }
}

impl From<EncryptError> for Room {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(size) => Self::Needed(size.required_size),
            EncryptError::EncryptExhausted => Self::Impossible,
        }
    }
}

fn failed(error: rustls::Error) -> End {
    tracing::debug!(%error, "TLS failed");
    End::Tls
}

/// Whoever speaks plain SV1 here has the wrong port or scheme, and can be told.
fn explain(stream: &TcpStream) {
    let mut line = Vec::new();
    let words = "this port speaks TLS: use stratum+ssl:// or the plain port";
    write_error(&mut line, Id::NULL, ErrorCode::Other, words);
    let _ = stream.try_write(&line);
}

fn try_read(stream: &TcpStream, buffer: &mut Vec<u8>) -> Result<Option<usize>, End> {
    buffer.resize(READ_SIZE, 0);
    let mut read = None;
    let result = stream.try_io(Interest::READABLE, || {
        let size = (&*SockRef::from(stream)).read(buffer)?;
        read = Some(size);
        // It has emptied the socket, which need not be asked again before it has something.
        if size > 0 && size < READ_SIZE {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    });
    match (read, result) {
        (Some(0), _) => Err(End::Closed),
        (Some(size), _) => Ok(Some(size)),
        (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        (None, _) => Err(End::Failed),
    }
}

/// As [`try_read`], whether or not tokio knows of anything.
fn read_unannounced(stream: &TcpStream, buffer: &mut [u8]) -> Result<Option<usize>, End> {
    match (&*SockRef::from(stream)).read(buffer) {
        Ok(0) => Err(End::Closed),
        Ok(size) => Ok(Some(size)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(_) => Err(End::Failed),
    }
}

fn try_write(stream: &TcpStream, bytes: &[u8]) -> Result<Option<usize>, End> {
    match stream.try_write(bytes) {
        Ok(0) => Err(End::Closed),
        Ok(size) => Ok(Some(size)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(_) => Err(End::Failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, RootCertStore};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsConnector;

    fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![made.cert.der().clone()],
                made.signing_key.serialize_der().try_into().unwrap(),
            )
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        (Arc::new(server), Arc::new(client))
    }

    #[tokio::test]
    async fn an_idle_connection_owns_no_buffer() {
        let (server, client) = configs();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let calling = TcpStream::connect(listener.local_addr().unwrap());
        let (called, calling) = tokio::join!(listener.accept(), calling);
        let (stream, calling) = (called.unwrap().0, calling.unwrap());
        let gate = Gate::new(1);
        let name = ServerName::try_from("localhost").unwrap();
        let (tls, client) = tokio::join!(
            Tls::accept(&stream, server, &gate),
            TlsConnector::from(client).connect(name, calling)
        );
        let (mut client, mut transport) = (client.unwrap(), Transport::Tls(tls.unwrap().0));
        client.write_all(b"to the server").await.unwrap();
        let mut heard = Vec::new();
        while heard.len() < b"to the server".len() {
            stream.readable().await.unwrap();
            READ.with_borrow_mut(|buffers| {
                let bytes = transport.read(&stream, buffers, false).unwrap();
                heard.extend_from_slice(bytes.unwrap_or_default());
            });
        }
        assert_eq!(heard, b"to the server");
        assert_eq!(transport.write(&stream, b"back").unwrap(), Some(4));
        let mut back = [0; 4];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"back");

        let Transport::Tls(tls) = &transport else {
            panic!("it was TLS");
        };
        assert_eq!((tls.held.capacity(), tls.unsent.capacity()), (0, 0));
        let size = size_of_val(&**tls);
        assert!(size <= 1536, "{size}");
    }
}
