//! One SV1 miner: its socket, its conversation and what it has seen. It costs as little as it can, because it shares the
//! machine with what it measures.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, IoSliceMut, Write as _},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bench_pool::Result;
use memchr::memmem;
use nix::{
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt},
};
use socket2::{Domain, Socket, Type};
use stratum_v1::{ServerMessage, SubscribeResult, parse_server_message};

use crate::shares::Shares;

/// The ids of the requests of the handshake.
const SUBSCRIBE: u64 = 1;
const AUTHORIZE: u64 = 2;

/// A moment, as the kernel stamps it: since the Unix epoch.
pub(crate) type Stamp = Duration;

/// The moment that it is.
pub(crate) fn now() -> Stamp {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// A miner.
pub(crate) struct Miner {
    socket: Socket,
    name: String,
    /// What the socket has not taken of what is to be written, other than shares.
    unwritten: Vec<u8>,
    /// The socket takes no more for now.
    blocked: bool,
    /// An unfinished line.
    unread: Vec<u8>,
    pub(crate) connected_at: Stamp,
    pub(crate) first_job_at: Option<Stamp>,
    /// When the first job came that makes all before it worthless, since somebody last asked.
    pub(crate) clean_job_at: Option<Stamp>,
    pub(crate) handshake: Handshake,
    pub(crate) shares: Shares,
    /// When each share was written, where that is wanted; by the number of its id.
    pub(crate) timed: bool,
    sent_at: Vec<Stamp>,
    /// From before the write of a share to the arrival of its answer.
    pub(crate) waits: Vec<Duration>,
    pub(crate) accepted: u64,
    pub(crate) refused: BTreeMap<String, u64>,
}

/// What a miner learns before it can work.
#[derive(Debug, Default)]
pub(crate) struct Handshake {
    pub(crate) extranonce1: Vec<u8>,
    pub(crate) extranonce2_size: usize,
    /// The line that brought the newest job, read when shares are to be found.
    pub(crate) notify: Vec<u8>,
    /// In force when that job came.
    pub(crate) difficulty: Option<f64>,
    /// In force for later jobs.
    next_difficulty: Option<f64>,
    authorized: bool,
}

/// What happened to a miner while it read.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Seen {
    /// It has its first job and is authorised.
    pub(crate) ready: bool,
    /// It has the first clean job since somebody last asked.
    pub(crate) clean_job: bool,
}

impl Miner {
    /// Begins to connect.
    pub(crate) fn connect(address: SocketAddr, name: String) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        // Leaves no port behind that waits.
        socket.set_linger(Some(Duration::ZERO))?;
        // Where the kernel knows no such stamps, the clock is read instead.
        let _ = setsockopt(&socket, sockopt::ReceiveTimestampns, &true);
        let connected_at = now();
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => {
                return Err(error.into());
            }
            _ => {}
        }
        let mut miner = Self {
            socket,
            name,
            unwritten: Vec::new(),
            blocked: true,
            unread: Vec::new(),
            connected_at,
            first_job_at: None,
            clean_job_at: None,
            handshake: Handshake::default(),
            shares: Shares::default(),
            timed: false,
            sent_at: Vec::new(),
            waits: Vec::new(),
            accepted: 0,
            refused: BTreeMap::new(),
        };
        stratum_v1::write_subscribe(&mut miner.unwritten, SUBSCRIBE, "bench");
        Ok(miner)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn answered(&self) -> u64 {
        self.accepted + self.refused.values().sum::<u64>()
    }

    /// The socket takes something again.
    pub(crate) fn writable(&mut self) -> Result<()> {
        self.blocked = false;
        self.flush()
    }

    /// Writes so many shares with one call, or as much of them as the socket takes; gives back how many were begun.
    pub(crate) fn submit(&mut self, count: u64) -> Result<u64> {
        let before = self.shares.begun();
        if self.blocked {
            return Ok(0);
        }
        let sent_at = now();
        match self.socket.write(self.shares.next(count)) {
            Ok(size) => self.shares.advance(size),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.blocked = true,
            Err(error) => return Err(error.into()),
        }
        let begun = self.shares.begun() - before;
        if self.timed {
            let written = self.sent_at.len() + usize::try_from(begun)?;
            self.sent_at.resize(written, sent_at);
        }
        Ok(begun)
    }

    /// Reads what there is, and handles it line by line.
    pub(crate) fn readable(&mut self, buffer: &mut [u8], cmsgs: &mut [u8]) -> Result<Seen> {
        let mut seen = Seen::default();
        loop {
            let (size, stamp) = match receive(self.socket.as_fd(), buffer, cmsgs) {
                Ok((0, _)) => return Err("the translator closed the connection".into()),
                Ok((size, stamp)) => (size, stamp.unwrap_or_else(now)),
                Err(Errno::EAGAIN) => return Ok(seen),
                Err(error) => return Err(error.into()),
            };
            self.handle(&buffer[..size], stamp, &mut seen)?;
            // Less than there was room for: nothing more is there.
            if size < buffer.len() {
                return Ok(seen);
            }
        }
    }

    fn handle(&mut self, mut bytes: &[u8], stamp: Stamp, seen: &mut Seen) -> Result<()> {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if self.unread.is_empty() {
                self.line(line, stamp, seen)?;
            } else {
                let mut whole = std::mem::take(&mut self.unread);
                whole.extend_from_slice(line);
                self.line(&whole, stamp, seen)?;
            }
        }
        if !bytes.is_empty() {
            self.unread.extend_from_slice(bytes);
        } else if self.unread.capacity() > 0 {
            self.unread = Vec::new();
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8], stamp: Stamp, seen: &mut Seen) -> Result<()> {
        if let Some(number) = share_number(line) {
            self.answer(number, line, stamp);
            return Ok(());
        }
        match parse_server_message(line) {
            Ok(ServerMessage::Notify(notify)) => {
                if self.first_job_at.is_none() {
                    self.first_job_at = Some(stamp);
                    seen.ready |= self.handshake.authorized;
                }
                if notify.clean_jobs && self.clean_job_at.is_none() {
                    self.clean_job_at = Some(stamp);
                    seen.clean_job = true;
                }
                self.handshake.difficulty = self.handshake.next_difficulty;
                self.handshake.notify.clear();
                self.handshake.notify.extend_from_slice(line);
            }
            Ok(ServerMessage::SetDifficulty(difficulty)) => {
                self.handshake.next_difficulty = Some(difficulty);
            }
            Ok(ServerMessage::SetExtranonce { .. }) => {
                return Err("the miner was given another extranonce".into());
            }
            Ok(ServerMessage::Response { id, outcome }) => {
                let result = outcome.map_err(|error| format!("{}: {error:?}", id.json()))?;
                if id.json() == SUBSCRIBE.to_string() {
                    let subscribed =
                        SubscribeResult::parse(result).ok_or("a strange answer to subscribe")?;
                    self.handshake.extranonce1 = subscribed.extranonce1.to_vec();
                    self.handshake.extranonce2_size = subscribed.extranonce2_size;
                    stratum_v1::write_authorize(&mut self.unwritten, AUTHORIZE, &self.name, "x");
                    self.flush()?;
                } else {
                    self.handshake.authorized = true;
                    seen.ready |= self.first_job_at.is_some();
                }
            }
            Ok(_) => {}
            Err(_) => return Err(format!("a strange line: {}", line.escape_ascii()).into()),
        }
        Ok(())
    }

    fn answer(&mut self, number: usize, line: &[u8], stamp: Stamp) {
        if memmem::find(line, b"\"result\":true").is_some() {
            self.accepted += 1;
        } else {
            let why = memmem::find(line, b"\"error\":").map_or(line, |at| &line[at..]);
            *self
                .refused
                .entry(why.escape_ascii().to_string())
                .or_default() += 1;
        }
        if let Some(sent_at) = self.sent_at.get(number) {
            self.waits.push(stamp.saturating_sub(*sent_at));
        }
    }

    fn flush(&mut self) -> Result<()> {
        if self.unwritten.is_empty() || self.blocked {
            return Ok(());
        }
        match self.socket.write(&self.unwritten) {
            Ok(size) => drop(self.unwritten.drain(..size)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.blocked = true,
            Err(error) => return Err(error.into()),
        }
        if self.unwritten.is_empty() {
            self.unwritten = Vec::new();
        }
        Ok(())
    }
}

impl AsFd for Miner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The number of the share that a line answers, if it does.
fn share_number(line: &[u8]) -> Option<usize> {
    // Without a space, as all measured programs write it.
    let at = memmem::find(line, b"\"id\":")? + 5;
    let digits = line[at..].iter().take_while(|byte| byte.is_ascii_digit());
    let id = digits.fold(0_u64, |id, digit| {
        id.wrapping_mul(10) + u64::from(digit - b'0')
    });
    usize::try_from(id.checked_sub(Shares::FIRST_ID)?).ok()
}

/// Reads, and says when the last of what it read arrived at the socket.
fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    cmsgs: &mut [u8],
) -> nix::Result<(usize, Option<Stamp>)> {
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(cmsgs),
        MsgFlags::empty(),
    )?;
    let stamp = message.cmsgs()?.find_map(|cmsg| match cmsg {
        ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
        _ => None,
    });
    Ok((message.bytes, stamp))
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]
mod tests {
    use super::*;
    use nix::{cmsg_space, sys::time::TimeSpec};
    use std::net::TcpListener;

    #[test]
    fn the_kernel_says_when_bytes_arrived() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut miner = Miner::connect(listener.local_addr().unwrap(), "m".to_owned()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        miner.socket.set_nonblocking(false).unwrap();
        // The kernel begins to stamp a moment after it was asked to.
        let stamped = (0..10_000).any(|_| {
            peer.write_all(b"x").unwrap();
            let mut buffer = [0; 16];
            let mut cmsgs = cmsg_space!(TimeSpec);
            let (size, stamp) = receive(miner.socket.as_fd(), &mut buffer, &mut cmsgs).unwrap();
            miner.unread.extend_from_slice(&buffer[..size]);
            stamp.is_some_and(|stamp| stamp >= miner.connected_at && stamp <= now())
        });
        assert!(stamped, "after {} bytes", miner.unread.len());
    }
}
