//! The miners' ends, on one thread: each has said who it is and has a job, and then does what a measurement asks for.

use std::{
    io::{ErrorKind, Write as _},
    net::SocketAddr,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use bench_pool::Result;
use memchr::memmem;
use nix::{
    cmsg_space,
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        time::TimeSpec,
    },
};
use socket2::Socket;

use crate::socket::{Stamp, connect, now, receive, wait};

/// Miners that are connected.
pub(crate) struct Farm {
    miners: Vec<Miner>,
    epoll: Epoll,
    events: Vec<EpollEvent>,
    buffer: Vec<u8>,
    control: Vec<u8>,
    ready: usize,
    /// Bytes read.
    pub(crate) received: u64,
    /// Answers to submits.
    pub(crate) answered: u64,
    /// When the last byte came.
    pub(crate) heard: Stamp,
}

struct Miner {
    socket: Socket,
    ready: bool,
    greeted: bool,
    /// The end of what was read before, in which the beginning of a word that is looked for may be.
    tail: Vec<u8>,
    next_id: u64,
}

impl Farm {
    /// Connects so many, a few at a time, and waits until all have a job.
    pub(crate) fn connect(address: SocketAddr, count: usize) -> Result<Self> {
        let mut farm = Self {
            miners: Vec::with_capacity(count),
            epoll: Epoll::new(EpollCreateFlags::empty())?,
            events: vec![EpollEvent::empty(); 1024],
            buffer: vec![0; 256 * 1024],
            control: cmsg_space!(TimeSpec),
            ready: 0,
            received: 0,
            answered: 0,
            heard: Stamp::ZERO,
        };
        let mut progress = Instant::now();
        while farm.ready < count {
            let before = farm.ready;
            while farm.miners.len() < count && farm.miners.len() < farm.ready + AT_A_TIME {
                farm.begin(address)?;
            }
            farm.turn(Duration::from_millis(50))?;
            if farm.ready > before {
                progress = Instant::now();
            } else if progress.elapsed() > PATIENCE {
                return Err(format!("{} of {count} miners have a job", farm.ready).into());
            }
        }
        Ok(farm)
    }

    fn begin(&mut self, address: SocketAddr) -> Result<()> {
        let number = self.miners.len() as u64;
        let socket = connect(address)?;
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
        self.epoll.add(&socket, EpollEvent::new(interest, number))?;
        self.miners.push(Miner {
            socket,
            ready: false,
            greeted: false,
            tail: Vec::new(),
            next_id: 3,
        });
        Ok(())
    }

    /// Handles what there is, after waiting this long for it at most.
    pub(crate) fn turn(&mut self, at_most: Duration) -> Result<()> {
        let at_most_ms = u16::try_from(at_most.as_millis())?;
        let count = wait(
            &self.epoll,
            &mut self.events,
            EpollTimeout::from(at_most_ms),
        )?;
        for at in 0..count {
            let event = self.events[at];
            let number = usize::try_from(event.data())?;
            if event.events().contains(EpollFlags::EPOLLOUT) {
                self.greet(number)?;
            }
            if event.events() != EpollFlags::EPOLLOUT {
                self.read(number)?;
            }
        }
        Ok(())
    }

    /// The socket is connected.
    fn greet(&mut self, number: usize) -> Result<()> {
        let miner = &mut self.miners[number];
        if let Some(error) = miner.socket.take_error()? {
            return Err(error.into());
        }
        if !std::mem::replace(&mut miner.greeted, true) {
            let text = format!(
                "{{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[\"bench\"]}}\n\
                 {{\"id\":2,\"method\":\"mining.authorize\",\"params\":[\"bench.m{number}\",\"x\"]}}\n"
            );
            miner.socket.write_all(text.as_bytes())?;
        }
        let mut event = EpollEvent::new(EpollFlags::EPOLLIN, number as u64);
        self.epoll.modify(&miner.socket, &mut event)?;
        Ok(())
    }

    fn read(&mut self, number: usize) -> Result<()> {
        let miner = &mut self.miners[number];
        let socket = miner.socket.as_fd();
        let (size, stamp) = match receive(socket, &mut self.buffer, &mut self.control) {
            Ok((0, _)) => return Err("a miner's connection was closed".into()),
            Ok(read) => read,
            Err(Errno::EAGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.heard = stamp;
        self.received += size as u64;
        if !miner.ready {
            miner.tail.extend_from_slice(&self.buffer[..size]);
            if memmem::find(&miner.tail, b"mining.notify\",\"params").is_some()
                && miner.tail.ends_with(b"\n")
            {
                miner.ready = true;
                miner.tail = Vec::new();
                self.ready += 1;
            }
        } else {
            // Each answer is a line, and while submits are answered nothing else is said.
            self.answered += memchr::memchr_iter(b'\n', &self.buffer[..size]).count() as u64;
        }
        Ok(())
    }

    /// Has a miner send a share; gives back when.
    pub(crate) fn submit(&mut self, number: usize) -> Result<Stamp> {
        let miner = &mut self.miners[number];
        let id = miner.next_id;
        miner.next_id += 1;
        let text = format!(
            "{{\"id\":{id},\"method\":\"mining.submit\",\"params\":[\"bench.m{number}\",\"0\",\"{id:016x}\",\"65000000\",\"{:08x}\",\"00002000\"]}}\n",
            id & 0xffff_ffff
        );
        let sent = now();
        match miner.socket.write(text.as_bytes()) {
            Ok(size) if size == text.len() => Ok(sent),
            Ok(_) => Err("a share was written in part".into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                Err("a share finds no room".into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Few enough for any backlog.
const AT_A_TIME: usize = 100;
const PATIENCE: Duration = Duration::from_secs(20);
