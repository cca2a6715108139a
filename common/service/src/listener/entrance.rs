//! One listening socket, and what is asked of the connections that come through it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::Error;

/// Connections that the kernel may hold for us; the system's own maximum (`somaxconn`) caps it.
const BACKLOG: u32 = 4096;

/// A peer whose machine or cable is gone is noticed after this and a few intervals more, though it never said so.
pub(super) const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// One listening socket.
#[derive(Debug)]
pub(super) struct Entrance {
    /// Unless it is closed.
    pub(super) inner: Option<TcpListener>,
    pub(super) local: SocketAddr,
}

impl Entrance {
    pub(super) fn open(address: SocketAddr) -> Result<Self, Error> {
        Self::try_open(address).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => Error::InUse { address },
            _ => Error::Bind { address, source },
        })
    }

    fn try_open(address: SocketAddr) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // A restart must not wait for the connections of the last process to time out.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let inner = socket.listen(BACKLOG)?;
        let local = inner.local_addr()?;
        Ok(Self {
            inner: Some(inner),
            local,
        })
    }
}

/// Has the system ask after a peer that is silent for `idle`, and end the connection when it does not answer.
///
/// # Errors
/// The system's, on a connection that is gone.
pub fn keep_alive(stream: &TcpStream, idle: Duration) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(idle)
        .with_interval(KEEPALIVE_INTERVAL);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    // While something that was sent is unacknowledged, nobody is asked, and the system would try for a quarter of an hour.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(idle + KEEPALIVE_PROBES * KEEPALIVE_INTERVAL))?;
    Ok(())
}
