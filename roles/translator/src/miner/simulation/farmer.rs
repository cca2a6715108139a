//! A miner that remembers what it has asked, and holds the translator to one answer each.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::watch;

use super::pool::{MinerId, NTIME};
use crate::miner::{Driver, End, now};
use crate::session::{Session, Settings};
use crate::status::{Miner as Entry, Status};
use crate::upstream::Link;

/// A miner, and the translator's side of its connection.
pub(super) struct Farmer {
    pub(super) driver: Driver,
    entry: Arc<Entry>,
    pub(super) id: MinerId,
    name: String,
    jobs: Vec<String>,
    /// Parameters of shares that were sent.
    sent: Vec<String>,
    /// What was asked, and how often it was answered.
    asked: BTreeMap<u64, u32>,
    /// It does not read for now.
    pub(super) deaf: bool,
}

/// A miner that has gone, and whose last shares may be on their way.
pub(super) struct Departed {
    leaving: Pin<Box<dyn Future<Output = Driver>>>,
    entry: Arc<Entry>,
}

impl Farmer {
    pub(super) fn new(
        number: u32,
        settings: &Arc<Settings>,
        status: &Status,
        upstream: watch::Receiver<Option<Link>>,
    ) -> Self {
        let id = number.to_be_bytes();
        let entry = status.arrive(([127, 0, 0, 1], 1).into(), 1);
        let session = Session::new(now(), id, Arc::clone(settings));
        let mut driver = Driver::new(session, Arc::clone(&entry), upstream);
        driver.attach();
        let account = ["alice", "bob"][usize::from(number.is_multiple_of(3))];
        let mut miner = Self {
            driver,
            entry,
            id,
            name: format!("{account}.{number}"),
            jobs: Vec::new(),
            sent: Vec::new(),
            asked: BTreeMap::new(),
            deaf: false,
        };
        miner.ask("mining.subscribe", "");
        let authorize = format!(r#""{}","x""#, miner.name);
        miner.ask("mining.authorize", &authorize);
        miner
    }

    /// Sends some shares, good and bad, as far as the translator reads them.
    pub(super) fn submit(&mut self, rng: &mut StdRng) {
        for _ in 0..rng.random_range(1..6) {
            if !self.is_read() {
                return;
            }
            let params = self.share(rng);
            self.ask("mining.submit", &params);
        }
    }

    /// Asks for another difficulty, in one of the ways that there are. Up to three of four hashes do not meet it.
    pub(super) fn wish(&mut self, rng: &mut StdRng) {
        if !self.is_read() {
            return;
        }
        let difficulty = 2e-10 * f64::from(1 << rng.random_range(0..3));
        let name = &self.name;
        match rng.random_range(0..4) {
            0 => self.ask("mining.suggest_difficulty", &format!("{difficulty:e}")),
            1 => {
                let password = format!(r#""{name}","fd={difficulty:e}""#);
                self.ask("mining.authorize", &password);
            }
            _ => {
                let minimum = format!(
                    r#"["minimum-difficulty"],{{"minimum-difficulty.value":{difficulty:e}}}"#
                );
                self.ask("mining.configure", &minimum);
            }
        }
    }

    /// Sends one share for the newest job, if the translator reads it.
    pub(super) fn submit_one(&mut self, nonce: u32) {
        if !self.is_read() {
            return;
        }
        let name = &self.name;
        let job = self.jobs.last().expect("it has work");
        let share = format!(r#""{name}","{job}","00000000","{NTIME:08x}","{nonce:08x}""#);
        self.ask("mining.submit", &share);
    }

    /// Whether its task goes to sleep, and is woken by what is done then.
    pub(super) fn is_woken_by(&mut self, act: impl FnOnce()) -> bool {
        let crowded = self.driver.is_crowded();
        let mut wait = pin!(self.driver.wait(true, crowded));
        let sleeps = once(&mut wait).is_pending();
        act();
        sleeps && once(&mut wait).is_ready()
    }

    /// Whether the translator reads it.
    fn is_read(&self) -> bool {
        self.driver.may_handle_lines(self.driver.is_crowded())
    }

    fn share(&mut self, rng: &mut StdRng) -> String {
        let name = &self.name;
        let nonce: u32 = rng.random();
        let newest = self.jobs.last().map_or("1", String::as_str);
        let older = self.jobs.len().saturating_sub(rng.random_range(1..4));
        let older = self.jobs.get(older).map_or("1", String::as_str);
        let fresh =
            |job: &str| format!(r#""{name}","{job}","00000000","{NTIME:08x}","{nonce:08x}""#);
        let share = match rng.random_range(0..100) {
            0..60 => fresh(newest),
            60..75 => fresh(older),
            75..85 => match self.sent.last() {
                Some(sent) => sent.clone(),
                None => fresh(newest),
            },
            85..88 => fresh("ffff"),
            88..91 => format!(r#""{name}","{newest}","0000","{NTIME:08x}","{nonce:08x}""#),
            91..94 => format!(r#""{name}","{newest}","00000000","00000001","{nonce:08x}""#),
            94..97 => format!(r#""stranger","{newest}","00000000","{NTIME:08x}","{nonce:08x}""#),
            _ => format!(r#""{name}","{newest}",7"#),
        };
        self.sent.push(share.clone());
        share
    }

    fn ask(&mut self, method: &str, params: &str) {
        let id = self.asked.len() as u64 + 1;
        self.asked.insert(id, 0);
        let line = line(id, method, params);
        let driver = &mut self.driver;
        driver
            .session
            .handle_line(now(), line.as_bytes(), &mut driver.out);
        driver.send_requests();
    }

    /// What its task does when it is woken.
    pub(super) fn turn(&mut self) {
        self.read();
        let driver = &mut self.driver;
        driver.send_requests();
        let crowded = driver.is_crowded();
        let mail = driver.is_written();
        // Takes a place in the queue that has become free.
        let _ = once(&mut pin!(driver.wait(mail, crowded)));
        if mail {
            driver.handle_mail();
        }
        if now().instant >= driver.next_deadline(crowded) {
            driver.on_deadline();
        }
        driver.send_requests();
        assert_eq!(driver.out.end, None);
        self.read();
        self.check();
    }

    fn check(&mut self) {
        self.driver.publish();
        let session = &self.driver.session;
        let tally = session.tally();
        assert_eq!(tally.in_flight, session.in_flight() as u64, "{tally:?}");
        let ended = tally.accepted + tally.rejected() + tally.lost();
        assert_eq!(tally.submitted, ended + tally.in_flight, "{tally:?}");
    }

    /// Reads what it is told, unless it is deaf.
    fn read(&mut self) {
        if self.deaf {
            return;
        }
        let out = std::mem::take(&mut self.driver.out.bytes);
        for line in std::str::from_utf8(&out).unwrap().lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            match line["method"].as_str() {
                Some("mining.notify") => {
                    self.jobs.push(line["params"][0].as_str().unwrap().into());
                }
                Some(_) => {}
                None => {
                    let id = line["id"].as_u64().unwrap();
                    let answers = self.asked.get_mut(&id).expect("an answer to a question");
                    *answers += 1;
                    assert_eq!(*answers, 1, "answered twice: {line}");
                }
            }
        }
    }

    /// Questions that have no answer yet.
    pub(super) fn unanswered(&self) -> usize {
        self.asked.values().filter(|answers| **answers == 0).count()
    }

    /// It hangs up.
    pub(super) fn leave(mut self, patience: Duration) -> Departed {
        let mut driver = self.driver;
        driver.out.bytes.clear();
        self.sent.clear();
        Departed {
            entry: self.entry,
            leaving: Box::pin(async move {
                driver.linger(End::Closed, patience).await;
                driver
            }),
        }
    }
}

impl Departed {
    /// Whether it is over with it.
    pub(super) fn has_gone(&mut self, status: &Status) -> bool {
        let Poll::Ready(driver) = once(&mut self.leaving) else {
            return false;
        };
        assert_eq!(driver.session.in_flight(), 0);
        status.depart(&self.entry, End::Closed.name());
        true
    }
}

/// One request.
pub(super) fn line(id: u64, method: &str, params: &str) -> String {
    format!(r#"{{"id":{id},"method":"{method}","params":[{params}]}}"#)
}

/// What there is now, without waiting.
fn once<F: Future + ?Sized>(
    future: &mut Pin<impl std::ops::DerefMut<Target = F>>,
) -> Poll<F::Output> {
    future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
}
