//! The pool's ends: answers what miners say, and sends jobs as fast as they are taken when it is told to.

use std::{
    collections::HashMap,
    io::{ErrorKind, Write as _},
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use bench_pool::Result;
use memchr::memmem;
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    socket::{Backlog, listen},
};
use socket2::{Domain, Socket, Type};

use crate::socket::{receive, wait};

/// A pool on a thread of its own, until the process ends.
pub(crate) struct Pool {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Jobs are sent without end.
    pumping: AtomicBool,
    /// All connections are to be closed.
    forget: AtomicBool,
    connections: AtomicU64,
    submits: AtomicU64,
}

impl Pool {
    pub(crate) fn start() -> Result<Self> {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        listener.set_nonblocking(true)?;
        listen(&listener, Backlog::new(4096)?)?;
        let address = listener.local_addr()?.as_socket();
        let address = address.ok_or("the pool has no address")?;
        let shared = Arc::new(Shared::default());
        let mut server = Server::new(listener, shared.clone())?;
        thread::spawn(move || {
            if let Err(error) = server.run() {
                eprintln!("the pool of the benchmark: {error}");
            }
        });
        Ok(Self { address, shared })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends jobs without end, or stops.
    pub(crate) fn pump(&self, on: bool) {
        self.shared.pumping.store(on, Relaxed);
    }

    /// Closes what is left of a measurement.
    pub(crate) fn forget(&self) {
        self.pump(false);
        self.shared.forget.store(true, Relaxed);
        let begun = Instant::now();
        while self.shared.forget.load(Relaxed) && begun.elapsed() < PATIENCE {
            thread::sleep(TURN);
        }
    }
}

struct Server {
    listener: Socket,
    epoll: Epoll,
    connections: HashMap<u64, Connection>,
    next: u64,
    shared: Arc<Shared>,
    pumping: bool,
    jobs: Vec<u8>,
    buffer: Vec<u8>,
}

struct Connection {
    socket: Socket,
    unread: Vec<u8>,
    unwritten: Vec<u8>,
    /// How far it has got in the jobs that are sent without end.
    at: usize,
}

impl Server {
    fn new(listener: Socket, shared: Arc<Shared>) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        Ok(Self {
            listener,
            epoll,
            connections: HashMap::new(),
            next: 0,
            shared,
            pumping: false,
            jobs: jobs(),
            buffer: vec![0; 64 * 1024],
        })
    }

    fn run(&mut self) -> Result<()> {
        let mut events = vec![EpollEvent::empty(); 1024];
        loop {
            let turn = u8::try_from(TURN.as_millis())?;
            let count = wait(&self.epoll, &mut events, EpollTimeout::from(turn))?;
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.accept()?,
                    number => self.serve(number, event.events())?,
                }
            }
            self.obey()?;
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // The miner has left before it was met.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error.into()),
            };
            socket.set_nonblocking(true)?;
            socket.set_tcp_nodelay(true)?;
            socket.set_linger(Some(Duration::ZERO))?;
            self.epoll
                .add(&socket, EpollEvent::new(interest(self.pumping), self.next))?;
            let connection = Connection {
                socket,
                unread: Vec::new(),
                unwritten: Vec::new(),
                at: 0,
            };
            self.connections.insert(self.next, connection);
            self.next += 1;
            self.shared.connections.fetch_add(1, Relaxed);
        }
    }

    /// Does what the other thread asks for.
    fn obey(&mut self) -> Result<()> {
        let pumping = self.shared.pumping.load(Relaxed);
        if pumping != self.pumping {
            self.pumping = pumping;
            for (number, connection) in &self.connections {
                let mut event = EpollEvent::new(interest(pumping), *number);
                self.epoll.modify(&connection.socket, &mut event)?;
            }
        }
        if self.shared.forget.load(Relaxed) {
            self.connections.clear();
            self.shared.connections.store(0, Relaxed);
            self.shared.forget.store(false, Relaxed);
        }
        Ok(())
    }

    fn serve(&mut self, number: u64, events: EpollFlags) -> Result<()> {
        let Some(connection) = self.connections.get_mut(&number) else {
            return Ok(());
        };
        let mut open = true;
        if events.contains(EpollFlags::EPOLLOUT) {
            open = connection.write(self.pumping.then_some(&self.jobs));
        }
        if open && events != EpollFlags::EPOLLOUT {
            open = connection.read(&mut self.buffer, &self.shared);
        }
        if !open {
            self.connections.remove(&number);
            self.shared.connections.fetch_sub(1, Relaxed);
        }
        Ok(())
    }
}

impl Connection {
    /// Whether it is still open.
    fn read(&mut self, buffer: &mut [u8], shared: &Shared) -> bool {
        // It needs no stamps, and so no room for them.
        let size = match receive(self.socket.as_fd(), buffer, &mut []) {
            Ok((0, _)) => return false,
            Ok((size, _)) => size,
            Err(error) => return error == nix::errno::Errno::EAGAIN,
        };
        let mut bytes = &buffer[..size];
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if self.unread.is_empty() {
                self.answer(line, shared);
            } else {
                let mut whole = std::mem::take(&mut self.unread);
                whole.extend_from_slice(line);
                self.answer(&whole, shared);
            }
        }
        self.unread.extend_from_slice(bytes);
        self.write(None)
    }

    fn answer(&mut self, line: &[u8], shared: &Shared) {
        let Some(id) = id(line) else { return };
        let says = |method: &str| memmem::find(line, method.as_bytes()).is_some();
        // Writing to a Vec cannot fail.
        if says("mining.submit") {
            shared.submits.fetch_add(1, Relaxed);
            let _ = writeln!(
                self.unwritten,
                r#"{{"id":{id},"result":true,"error":null}}"#
            );
        } else if says("mining.subscribe") {
            let _ = writeln!(
                self.unwritten,
                r#"{{"id":{id},"result":[[["mining.notify","1"]],"deadbeef",8],"error":null}}"#
            );
        } else if says("mining.authorize") {
            let _ = writeln!(
                self.unwritten,
                r#"{{"id":{id},"result":true,"error":null}}"#
            );
            let _ = writeln!(
                self.unwritten,
                r#"{{"id":null,"method":"mining.set_difficulty","params":[8192]}}"#
            );
            self.unwritten.extend_from_slice(job(0).as_bytes());
        }
    }

    /// Whether it is still open.
    fn write(&mut self, jobs: Option<&Vec<u8>>) -> bool {
        if !self.unwritten.is_empty() {
            match self.socket.write(&self.unwritten) {
                Ok(size) => drop(self.unwritten.drain(..size)),
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
            if self.unwritten.is_empty() {
                self.unwritten = Vec::new();
            }
        }
        let Some(jobs) = jobs.filter(|_| self.unwritten.is_empty()) else {
            return true;
        };
        match self.socket.write(&jobs[self.at..]) {
            Ok(size) => {
                self.at = (self.at + size) % jobs.len();
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}

fn interest(pumping: bool) -> EpollFlags {
    match pumping {
        true => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
        false => EpollFlags::EPOLLIN,
    }
}

/// The number of a request's id.
fn id(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(br#"{"id":"#)?;
    let end = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}

/// A job as large as the main chain's, with twelve branches.
fn job(number: u32) -> String {
    let branch = vec![format!(r#""{}""#, "ab".repeat(32)); 12].join(",");
    format!(
        "{{\"id\":null,\"method\":\"mining.notify\",\"params\":[\"{number:x}\",\"{}\",\"{}\",\"{}\",[{branch}],\"20000000\",\"17030ecd\",\"65000000\",false]}}\n",
        "00".repeat(32),
        "01".repeat(60),
        "02".repeat(120),
    )
}

/// Jobs to be sent again and again.
fn jobs() -> Vec<u8> {
    (0..48)
        .flat_map(|number| job(number).into_bytes())
        .collect()
}

const LISTENER: u64 = u64::MAX;
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the other thread may wait until it is obeyed.
const TURN: Duration = Duration::from_millis(5);
