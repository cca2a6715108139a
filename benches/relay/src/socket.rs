//! Sockets of both ends: what is read comes with the moment at which the kernel had it.

use std::{
    io::IoSliceMut,
    net::SocketAddr,
    os::fd::{AsRawFd as _, BorrowedFd},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bench_pool::Result;
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollEvent, EpollTimeout},
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt},
};
use socket2::{Domain, Socket, Type};

/// A moment, as the kernel stamps it: since the Unix epoch.
pub(crate) type Stamp = Duration;

/// The moment that it is.
pub(crate) fn now() -> Stamp {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Begins to connect.
pub(crate) fn connect(address: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // Leaves no port behind that waits.
    socket.set_linger(Some(Duration::ZERO))?;
    // Where the kernel knows no such stamps, the clock is read instead.
    let _ = setsockopt(&socket, sockopt::ReceiveTimestampns, &true);
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error.into()),
        _ => Ok(socket),
    }
}

/// Waits for events. The end of a process that was started is none.
pub(crate) fn wait(
    epoll: &Epoll,
    events: &mut [EpollEvent],
    at_most: EpollTimeout,
) -> nix::Result<usize> {
    match epoll.wait(events, at_most) {
        Err(Errno::EINTR) => Ok(0),
        waited => waited,
    }
}

/// Reads, and says when the last of what it read arrived at the socket.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    control: &mut [u8],
) -> nix::Result<(usize, Stamp)> {
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(control),
        MsgFlags::empty(),
    )?;
    let stamp = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
        _ => None,
    });
    Ok((message.bytes, stamp.unwrap_or_else(now)))
}
