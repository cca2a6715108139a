//! Many miners on one thread, which sleeps until a socket has something to say.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use bench_pool::Result;
use nix::{
    cmsg_space,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        time::TimeSpec,
    },
};

use crate::{miner::Miner, shares::Shares};

/// Read at once.
const READ_SIZE: usize = 64 * 1024;

/// Miners that connect to one translator.
pub(crate) struct Farm {
    address: SocketAddr,
    epoll: Epoll,
    pub(crate) miners: Vec<Miner>,
    /// How many have a job and are authorised.
    pub(crate) ready: usize,
    /// How many got a clean job since [`Farm::await_clean_jobs`].
    pub(crate) clean_jobs: usize,
    /// What went wrong with a miner's connection, by its number.
    pub(crate) failed: Vec<(usize, String)>,
    events: Vec<EpollEvent>,
    buffer: Vec<u8>,
    cmsgs: Vec<u8>,
}

impl Farm {
    pub(crate) fn new(address: SocketAddr) -> Result<Self> {
        Ok(Self {
            address,
            epoll: Epoll::new(EpollCreateFlags::empty())?,
            miners: Vec::new(),
            ready: 0,
            clean_jobs: 0,
            failed: Vec::new(),
            events: vec![EpollEvent::empty(); 1024],
            buffer: vec![0; READ_SIZE],
            cmsgs: cmsg_space!(TimeSpec),
        })
    }

    /// Begins to connect one more miner, and gives back its number.
    pub(crate) fn connect(&mut self) -> Result<usize> {
        let number = self.miners.len();
        let miner = Miner::connect(self.address, format!("bench.m{number}"))?;
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.epoll
            .add(&miner, EpollEvent::new(interest, number as u64))?;
        self.miners.push(miner);
        Ok(number)
    }

    /// Connects so many, spread over this time, and waits until all have work or have failed.
    pub(crate) fn connect_all(
        &mut self,
        count: usize,
        within: Duration,
        patience: Duration,
    ) -> Result<()> {
        let start = Instant::now();
        let before = self.miners.len();
        while self.miners.len() < before + count {
            let due = start.elapsed().as_secs_f64() / within.as_secs_f64().max(1e-9);
            while self.miners.len() < before + count
                && (self.miners.len() - before) as f64 <= due * count as f64
            {
                self.connect()?;
            }
            self.turn(1)?;
        }
        self.run_until(patience, |farm| {
            farm.ready + farm.failed.len() >= farm.miners.len()
        })?;
        Ok(())
    }

    /// Handles what there is, after waiting for it so many milliseconds at most.
    pub(crate) fn turn(&mut self, milliseconds: u8) -> Result<()> {
        let count = self
            .epoll
            .wait(&mut self.events, EpollTimeout::from(milliseconds))?;
        for at in 0..count {
            let event = self.events[at];
            let number = usize::try_from(event.data())?;
            let miner = &mut self.miners[number];
            let mut handled = Ok(());
            if event.events().contains(EpollFlags::EPOLLOUT) {
                handled = miner.writable();
            }
            if handled.is_ok() && event.events() != EpollFlags::EPOLLOUT {
                match miner.readable(&mut self.buffer, &mut self.cmsgs) {
                    Ok(seen) => {
                        self.ready += usize::from(seen.ready);
                        self.clean_jobs += usize::from(seen.clean_job);
                    }
                    Err(error) => handled = Err(error),
                }
            }
            if let Err(error) = handled {
                self.fail(number, &error)?;
            }
        }
        Ok(())
    }

    /// Has a miner write so many shares with one call; gives back how many were begun.
    pub(crate) fn submit(&mut self, number: usize, count: u64) -> Result<u64> {
        match self.miners[number].submit(count) {
            Ok(begun) => Ok(begun),
            Err(error) => {
                self.fail(number, &error)?;
                Ok(0)
            }
        }
    }

    pub(crate) fn has_failed(&self, number: usize) -> bool {
        self.failed.iter().any(|(failed, _)| *failed == number)
    }

    fn fail(&mut self, number: usize, error: &bench_pool::Error) -> Result<()> {
        self.epoll.delete(&self.miners[number])?;
        self.failed.push((number, error.to_string()));
        Ok(())
    }

    /// Goes on until that is so; `false` if it does not come true in time.
    pub(crate) fn run_until(
        &mut self,
        patience: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<bool> {
        let deadline = Instant::now() + patience;
        while !done(self) {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            self.turn(10)?;
        }
        Ok(true)
    }

    /// Goes on for this time.
    pub(crate) fn rest(&mut self, time: Duration) -> Result<()> {
        self.run_until(time, |_| false)?;
        Ok(())
    }

    /// From now on the next clean job counts.
    pub(crate) fn await_clean_jobs(&mut self) {
        self.clean_jobs = 0;
        for miner in &mut self.miners {
            miner.clean_job_at = None;
        }
    }

    /// An error if any miner's connection has failed.
    pub(crate) fn check(&self) -> Result<()> {
        match self.failed.first() {
            None => Ok(()),
            Some((number, error)) => Err(format!(
                "{} of {} connections failed, that of miner {number} with: {error}",
                self.failed.len(),
                self.miners.len()
            )
            .into()),
        }
    }

    /// Finds so many shares for each of these miners.
    pub(crate) fn find_shares(&mut self, miners: &[usize], count: usize) -> Result<()> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let all = &self.miners;
        let found: Vec<Result<Vec<(usize, Shares)>>> = thread::scope(|scope| {
            let parts = miners.chunks(miners.len().div_ceil(threads).max(1));
            let running: Vec<_> = parts
                .map(|part| {
                    scope.spawn(move || {
                        part.iter()
                            .map(|number| {
                                let miner = &all[*number];
                                let shares = Shares::find(&miner.handshake, miner.name(), count)?;
                                Ok((*number, shares))
                            })
                            .collect()
                    })
                })
                .collect();
            running
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|_| Err("a thread that hashes has failed".into()))
                })
                .collect()
        });
        for part in found {
            for (number, shares) in part? {
                self.miners[number].shares = shares;
            }
        }
        Ok(())
    }
}
