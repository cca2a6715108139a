//! Miners that send all that they may.

use std::ops::Range;

use service::pace::Pace;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;

use super::farmer::line;
use super::pool::NTIME;
use super::*;
use crate::miner::{Driver, End, Socket, now};
use crate::session::Session;
use crate::upstream::{EACH, ENOUGH};

struct Flood {
    world: World,
    next_nonce: u32,
}

impl Flood {
    /// Four miners, all of whose hashes are shares, and a pool that answers when it is told to.
    async fn new() -> Self {
        let climate = Climate {
            aggregate: false,
            acknowledge: Acknowledge::Local,
            rules: BY_THE_BOOK,
            cuts: false,
            most_in_flight: 4 * ENOUGH,
            queue: 64,
        };
        let mut world = World::new(1, climate);
        world.settle().await;
        world.pools[0].ease();
        Self {
            world,
            next_nonce: 0,
        }
    }

    /// These miners send, in turn, until none of them is read any more.
    fn run(&mut self, miners: Range<usize>) {
        let mut before = usize::MAX;
        while self.in_flight() != before {
            before = self.in_flight();
            for at in miners.clone() {
                let miner = &mut self.world.miners[at];
                miner.turn();
                miner.submit_one(self.next_nonce);
                self.pool_reads();
            }
            self.next_nonce += 1;
        }
    }

    fn pool_reads(&mut self) {
        let World {
            pools, rng, ledger, ..
        } = &mut self.world;
        pools[0].read(usize::MAX, rng, ledger);
    }

    /// Answers full batches of this size.
    fn answer_batches(&mut self, size: usize) -> usize {
        let World { pools, ledger, .. } = &mut self.world;
        pools[0].answer_batches(size, ledger)
    }

    /// Answers one share of each channel.
    fn answer_one_of_each(&mut self) {
        let World { pools, ledger, .. } = &mut self.world;
        pools[0].answer_one_of_each(ledger);
    }

    fn in_flight(&self) -> usize {
        (0..self.world.miners.len()).map(|at| self.of(at)).sum()
    }

    /// A miner's.
    fn of(&self, at: usize) -> usize {
        self.world.miners[at].driver.session.in_flight()
    }

    async fn end(mut self) {
        self.world.settle().await;
        assert_eq!(self.in_flight(), 0);
        self.world.all_leave().await;
        self.world.compare();
    }
}

#[tokio::test(start_paused = true)]
async fn however_many_flood_a_pool_that_is_behind_has_few_of_their_shares_to_answer_first() {
    let mut flood = Flood::new().await;
    flood.run(0..4);
    let (most, all) = (ENOUGH + 4 * EACH as usize, flood.in_flight());
    assert!((ENOUGH..=most).contains(&all), "{all}");
    for miner in 0..4 {
        assert!(flood.of(miner) >= ENOUGH / 4, "none starves");
    }
    // One that comes now gets a channel, and is read.
    flood.world.arrive();
    flood.world.miners[4].turn();
    flood.pool_reads();
    flood.world.pools[0].answer_opening(&mut flood.world.rng);
    flood.world.pools[0].ease();
    flood.run(4..5);
    assert_eq!(flood.of(4), EACH as usize);

    flood.world.settle().await;
    flood.run(0..1);
    assert!(flood.of(0) >= ENOUGH, "the places are free again");
    flood.end().await;
}

/// More miners than use up the allowance without one of them waiting for others.
async fn crowd() -> (Flood, Range<usize>) {
    let mut flood = Flood::new().await;
    let miners = 0..ENOUGH / (EACH as usize - 1) + 6;
    while flood.world.miners.len() < miners.end {
        flood.world.arrive();
        flood.world.miners.last_mut().unwrap().turn();
        flood.pool_reads();
        flood.world.pools[0].answer_opening(&mut flood.world.rng);
    }
    flood.world.settle().await;
    flood.world.pools[0].ease();
    (flood, miners)
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_answers_full_batches_alone_never_waits_for_a_miner_that_waits_for_it() {
    let (mut flood, miners) = crowd().await;
    // SRI's answers ten shares of a channel.
    for batch in [10, EACH as usize - 1] {
        for _ in 0..5 {
            flood.run(miners.clone());
            let answered = flood.answer_batches(batch);
            assert!(answered > ENOUGH / 2, "{answered} without any time passing");
        }
    }
    flood.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_answers_in_batches_larger_than_the_allowance_gets_them() {
    let (mut flood, miners) = crowd().await;
    flood.run(miners.clone());
    assert_eq!(flood.answer_batches(100), 0);
    for _ in 0..3 {
        flood.world.pass(Duration::from_millis(1100)).await;
        flood.run(miners.clone());
    }
    for _ in 0..5 {
        let answered = flood.answer_batches(100);
        assert!(answered >= 100 * miners.len(), "{answered} at once");
        flood.run(miners.clone());
    }
    flood.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_stands_still_for_a_moment_gets_no_more_than_it_asks_for_when_it_goes_on() {
    let (mut flood, miners) = crowd().await;
    flood.run(miners.clone());
    for _ in 0..3 {
        flood.world.pass(Duration::from_millis(1100)).await;
        flood.run(miners.clone());
    }
    let before = flood.in_flight();
    // It answers one by one.
    let most = ENOUGH + miners.len() * EACH as usize;
    assert!(before > 2 * most, "{before}");
    for _ in 0..before.div_ceil(miners.len()) {
        flood.answer_one_of_each();
        flood.run(miners.clone());
    }
    let left = flood.in_flight();
    assert!(left <= most, "{left} of {before}");
    flood.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_others_goes_on_when_theirs_are_answered_although_its_own_are_not() {
    let mut flood = Flood::new().await;
    let others = flood.world.upstream.borrow().clone().unwrap().mailbox();
    others.account().sent(u32::try_from(ENOUGH).unwrap());
    flood.run(0..1);
    assert_eq!(flood.of(0), EACH as usize);
    flood.world.miners[0].turn();
    assert!(flood.world.miners[0].is_woken_by(|| drop(others)));
    flood.run(0..1);
    assert!(flood.of(0) > EACH as usize);
    flood.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_miner_waits_for_a_second_from_the_last_answer_that_it_heard() {
    const OWN: usize = EACH as usize + 7;
    let mut flood = Flood::new().await;
    let others = flood.world.upstream.borrow().clone().unwrap().mailbox();
    others.account().sent(u32::try_from(ENOUGH - OWN).unwrap());
    flood.run(0..1);
    assert_eq!(flood.of(0), OWN);
    others.account().sent(u32::try_from(2 * ENOUGH).unwrap());
    for answered in 1..4 {
        flood.world.pass(Duration::from_millis(900)).await;
        flood.answer_one_of_each();
        flood.run(0..1);
        assert_eq!(flood.of(0), OWN - answered, "nothing was sent meanwhile");
    }
    flood.world.pass(Duration::from_millis(1000)).await;
    flood.run(0..1);
    assert_eq!(flood.of(0), 2 * (OWN - 3));
    drop(others);
    flood.end().await;
}

#[tokio::test(start_paused = true)]
async fn miners_that_do_not_read_their_answers_use_nothing_up() {
    let mut flood = Flood::new().await;
    for _ in 0..3 {
        flood.run(0..1);
        // The pool has answered all, and nobody wakes its task.
        assert!(flood.answer_batches(1) >= ENOUGH);
        let newcomer = flood.world.upstream.borrow().clone().unwrap().mailbox();
        newcomer.account().sent(EACH);
        assert!(!newcomer.account().has_to_wait());
    }
    flood.end().await;
}

/// A miner on a socket.
struct Remote {
    stream: BufReader<TcpStream>,
    job: String,
}

impl Remote {
    /// The miner, and the translator's end of its connection.
    async fn connect() -> (Self, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap());
        let (theirs, ours) = tokio::join!(theirs, listener.accept());
        let miner = Self {
            stream: BufReader::new(theirs.unwrap()),
            job: String::new(),
        };
        (miner, ours.unwrap().0)
    }

    async fn ask(&mut self, method: &str, params: &str) {
        let line = line(0, method, params) + "\n";
        self.stream.write_all(line.as_bytes()).await.unwrap();
    }

    async fn next_job(&mut self) {
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).await.unwrap();
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if line["method"] == "mining.notify" {
                self.job = line["params"][0].as_str().unwrap().into();
                return;
            }
        }
    }

    /// Shares, all in one write.
    async fn submit(&mut self, nonces: Range<u32>) {
        let job = &self.job;
        let share = |nonce: u32| {
            let share = format!(r#""remote","{job}","00000000","{NTIME:08x}","{nonce:08x}""#);
            line(0, "mining.submit", &share) + "\n"
        };
        let lines: String = nonces.map(share).collect();
        self.stream.write_all(lines.as_bytes()).await.unwrap();
    }
}

/// What `serve` ends with, while `script` goes on beside it.
async fn beside(serve: impl Future<Output = End>, script: impl Future<Output = ()>) -> End {
    let script = async {
        script.await;
        std::future::pending().await
    };
    tokio::select! {
        biased;
        end = serve => end,
        end = script => end,
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_read_before_the_allowance_was_used_up_is_handled_when_it_is_free_again() {
    const SHARES: u32 = 40;
    let Flood { mut world, .. } = Flood::new().await;
    tokio::time::resume();
    let (mut remote, ours) = Remote::connect().await;
    let entry = world.status.arrive(([127, 0, 0, 1], 1).into(), 1);
    let session = Session::new(now(), [9; 4], Arc::clone(&world.settings));
    let mut driver = Driver::new(session, entry, world.upstream.subscribe());
    let pace = Pace::new(0, now().instant);
    let mut socket = Socket::new(ours, Duration::from_secs(10), pace);
    let shutdown = CancellationToken::new();
    let script = async {
        remote.ask("mining.subscribe", "").await;
        remote.ask("mining.authorize", r#""remote","x""#).await;
        let World {
            pools, rng, ledger, ..
        } = &mut world;
        while pools[0].open_channels() < 5 {
            yield_now().await;
            pools[0].read(usize::MAX, rng, ledger);
            pools[0].answer_opening(rng);
        }
        remote.next_job().await;
        pools[0].ease();
        remote.next_job().await;

        // Others leave room for half of the shares, and are answered as soon as anybody else has a turn.
        let link = world.upstream.borrow().clone().unwrap();
        let others = link.mailbox();
        others
            .account()
            .sent(u32::try_from(ENOUGH).unwrap() - SHARES / 2);
        remote.submit(0..SHARES).await;
        remote.stream.shutdown().await.unwrap();
        while !others.account().has_to_wait() {
            yield_now().await;
        }
        drop(others);
    };
    let end = beside(socket.serve(&mut driver, &shutdown), script).await;
    assert_eq!(end, End::Closed);
    let tally = driver.session.tally();
    let all = u64::from(SHARES);
    assert_eq!((tally.submitted, tally.forwarded), (all, all), "{tally:?}");
}
