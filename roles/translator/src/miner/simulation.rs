//! Miners and pools of all tempers on a simulated clock, without sockets: whatever happens, every share is counted once.

mod farmer;
mod flood;
mod pool;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::advance;
use work::{Hashrate, Target};

use crate::identity::Identity;
use crate::session::{Acknowledge, Settings};
use crate::status::{Shares, Status};
use crate::upstream::{Link, Roster, Waits, Wire};
use farmer::{Departed, Farmer};
use pool::{Ledger, Pool, Rules};

/// Conversations of each kind.
const SEEDS: u64 = 20;

const STEPS: usize = 400;

/// What may happen.
#[derive(Debug, Clone, Copy)]
struct Climate {
    aggregate: bool,
    acknowledge: Acknowledge,
    rules: Rules,
    /// Connections end without a word, channels are closed, miners leave without waiting for answers.
    cuts: bool,
    /// Shares that a miner may have on their way.
    most_in_flight: usize,
    /// Requests that the queue of a connection holds.
    queue: usize,
}

struct World {
    rng: StdRng,
    climate: Climate,
    settings: Arc<Settings>,
    status: Arc<Status>,
    upstream: watch::Sender<Option<Link>>,
    job_ids: Arc<AtomicU64>,
    links: u64,
    /// The newest is the last; those before it are being left.
    pools: Vec<Pool>,
    ledger: Ledger,
    miners: Vec<Farmer>,
    departed: Vec<Departed>,
    arrived: u32,
}

impl World {
    fn new(seed: u64, climate: Climate) -> Self {
        let settings = Settings {
            extranonce2_size: 4,
            version_mask: 0x1fff_e000,
            nominal_hashrate: Hashrate::ZERO,
            max_target: Target::MAX,
            hardest_target: Target::MIN,
            aggregate: climate.aggregate.then_some(60.0),
            user_identity: Identity::default(),
            user_agents: crate::UserAgents::default(),
            acknowledge: climate.acknowledge,
            max_in_flight: climate.most_in_flight,
            max_malformed_lines: u32::MAX,
            setup_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(1 << 30),
            outage_message: Some(Duration::from_secs(30)),
        };
        let waits = Waits {
            first: Duration::from_secs(1),
            last: Duration::from_secs(1),
            failback: Duration::ZERO,
        };
        let roster = Arc::new(std::sync::Mutex::new(Roster::new([], waits)));
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            climate,
            settings: Arc::new(settings),
            status: Status::new(roster, Arc::default(), None, false),
            upstream: watch::Sender::new(None),
            job_ids: Arc::new(AtomicU64::new(1)),
            links: 0,
            pools: Vec::new(),
            ledger: Ledger::default(),
            miners: Vec::new(),
            departed: Vec::new(),
            arrived: 0,
        };
        world.connect();
        for _ in 0..4 {
            world.arrive();
        }
        world
    }

    /// Another connection is made, and all miners are to use it.
    fn connect(&mut self) {
        self.links += 1;
        let Climate {
            aggregate, queue, ..
        } = self.climate;
        let (wire, link) = Wire::new(self.links, queue, aggregate, &self.job_ids);
        self.pools.push(Pool::new(wire, self.climate.rules));
        self.upstream.send_replace(Some(link));
    }

    fn arrive(&mut self) {
        self.arrived += 1;
        let upstream = self.upstream.subscribe();
        let miner = Farmer::new(self.arrived, &self.settings, &self.status, upstream);
        self.miners.push(miner);
    }

    fn leave(&mut self, at: usize) {
        let hasty = self.climate.cuts && self.rng.random_bool(0.5);
        let patience = Duration::from_secs(if hasty { 0 } else { 60 });
        let miner = self.miners.swap_remove(at);
        self.departed.push(miner.leave(patience));
    }

    async fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..40 => {
                if let Some(at) = self.some_miner() {
                    self.miners[at].submit(&mut self.rng);
                }
            }
            40..56 => {
                if let Some(at) = self.some_miner() {
                    self.miners[at].turn();
                }
            }
            56..62 => {
                if let Some(at) = self.some_miner() {
                    self.miners[at].wish(&mut self.rng);
                }
            }
            62..64 => {
                if let Some(at) = self.some_miner() {
                    self.miners[at].deaf ^= true;
                }
            }
            64..66 if self.miners.len() < 8 => self.arrive(),
            66..68 => {
                if let Some(at) = self.some_miner() {
                    self.leave(at);
                }
            }
            68..70 => {
                // Where nothing is to be lost, pools answer before patience ends.
                let time = if self.climate.cuts { 900 } else { 200 };
                self.pass(Duration::from_millis(time)).await;
            }
            70..72 => self.move_on(),
            72..74 if self.climate.cuts => self.cut(),
            _ => self.pool_acts(),
        }
        self.look_after_the_departed();
        let shares = self.shares();
        assert!(shares.add_up(), "{shares:?}");
    }

    fn pool_acts(&mut self) {
        let at = self.rng.random_range(0..self.pools.len().max(1));
        let (rng, ledger) = (&mut self.rng, &mut self.ledger);
        let Some(pool) = self.pools.get_mut(at) else {
            return;
        };
        match rng.random_range(0..26) {
            0..8 => pool.read(3, rng, ledger),
            8..12 => pool.answer_opening(rng),
            12..18 => pool.answer_shares(5, rng, ledger),
            18 => pool.new_block(rng),
            19..21 => pool.new_job(rng),
            21 => pool.set_target(rng),
            22 => pool.set_prefix(rng),
            23 => pool.set_group(rng),
            24 if self.climate.cuts => pool.close(rng),
            _ => pool.read_updates(),
        }
    }

    /// The pool asks for another connection, or another pool is better.
    fn move_on(&mut self) {
        // What is not answered when it is moved a second time is lost.
        let is_moving = self
            .miners
            .iter()
            .any(|miner| miner.driver.session.is_leaving());
        if self.climate.cuts || !is_moving && self.departed.is_empty() {
            self.connect();
        }
    }

    /// A connection ends, with or without another to go to.
    fn cut(&mut self) {
        if !self.pools.is_empty() {
            let at = self.rng.random_range(0..self.pools.len());
            self.pools.remove(at);
        }
        match self.rng.random_range(0..3) {
            0 => self.connect(),
            1 => drop(self.upstream.send_replace(None)),
            // It takes a moment until it is known.
            _ => {}
        }
    }

    async fn pass(&mut self, time: Duration) {
        advance(time).await;
        self.miners.iter_mut().for_each(Farmer::turn);
    }

    fn look_after_the_departed(&mut self) {
        let status = &self.status;
        self.departed.retain_mut(|miner| !miner.has_gone(status));
        self.pools.retain(|pool| !pool.is_left());
    }

    fn some_miner(&mut self) -> Option<usize> {
        (!self.miners.is_empty()).then(|| self.rng.random_range(0..self.miners.len()))
    }

    fn shares(&self) -> Shares {
        self.status.handle().snapshot().shares
    }

    /// Everybody goes on until nothing is left to do.
    async fn settle(&mut self) {
        for miner in &mut self.miners {
            miner.deaf = false;
        }
        for pool in &mut self.pools {
            pool.calm_down();
        }
        for _ in 0..120 {
            for pool in &mut self.pools {
                pool.read(usize::MAX, &mut self.rng, &mut self.ledger);
                pool.answer_opening(&mut self.rng);
                pool.answer_shares(100, &mut self.rng, &mut self.ledger);
            }
            self.pass(Duration::from_millis(500)).await;
            self.look_after_the_departed();
        }
    }

    async fn run(&mut self) {
        for _ in 0..STEPS {
            self.step().await;
        }
        if self
            .upstream
            .borrow()
            .as_ref()
            .is_none_or(|link| link.queue.is_closed())
        {
            self.connect();
        }
        self.settle().await;
        if self.climate.rules.lies {
            return self.all_leave().await;
        }
        for miner in &self.miners {
            assert_eq!(miner.driver.session.in_flight(), 0);
            assert_eq!(miner.unanswered(), 0, "every request has an answer");
            assert!(!miner.driver.session.is_leaving());
        }
        assert_eq!(self.pools.len(), 1, "a connection that was left has ended");
        self.compare_each();
        self.all_mine_on().await;

        self.all_leave().await;
        self.compare();
    }

    async fn all_leave(&mut self) {
        while !self.miners.is_empty() {
            self.leave(0);
        }
        self.settle().await;
        let snapshot = self.status.handle().snapshot();
        assert_eq!((self.departed.len(), snapshot.connected), (0, 0));
        assert_eq!(snapshot.shares.in_flight, 0);
        assert!(snapshot.shares.add_up(), "{:?}", snapshot.shares);
        assert_eq!(self.pools[0].open_channels(), 0, "no channel is left open");
    }

    /// Whatever has happened, every miner has work, and the pool takes its shares.
    async fn all_mine_on(&mut self) {
        // A miner whose channel was refused again and again waits for long.
        for _ in 0..40 {
            self.pass(Duration::from_secs(10)).await;
            self.pools[0].read(usize::MAX, &mut self.rng, &mut self.ledger);
            self.pools[0].answer_opening(&mut self.rng);
        }
        self.pools[0].ease();
        let accepted = |ledger: &Ledger, miner: &Farmer| {
            let account = ledger.accounts.get(&miner.id);
            account.map_or(0, |account| account.accepted)
        };
        let before: Vec<u64> = self
            .miners
            .iter()
            .map(|miner| accepted(&self.ledger, miner))
            .collect();
        for nonce in 0..80 {
            for miner in &mut self.miners {
                miner.turn();
                miner.submit_one(nonce);
            }
            self.pools[0].read(usize::MAX, &mut self.rng, &mut self.ledger);
            self.pools[0].answer_shares(100, &mut self.rng, &mut self.ledger);
        }
        self.settle().await;
        for (miner, before) in self.miners.iter().zip(before) {
            assert!(accepted(&self.ledger, miner) > before, "{:?}", miner.id);
        }
    }

    /// Each miner has what the pool has for it, where the pool says enough to know.
    fn compare_each(&self) {
        if self.climate.cuts || self.climate.rules.disorderly {
            return;
        }
        for miner in &self.miners {
            let account = self.ledger.accounts.get(&miner.id).copied();
            let account = account.unwrap_or_default();
            let tally = miner.driver.session.tally();
            assert_eq!(tally.accepted - tally.kept, account.accepted, "{tally:?}");
            assert_eq!(tally.upstream_work, account.work, "{tally:?}");
        }
    }

    /// All of them together have what the pool has.
    fn compare(&self) {
        let shares = self.shares();
        let accounts = self.ledger.accounts.values();
        let (accepted, refused, work) = accounts.fold((0, 0, 0), |(a, r, w), account| {
            (a + account.accepted, r + account.refused, w + account.work)
        });
        let of_upstream = |(reason, count): (&&str, &u64)| {
            let is = reason.starts_with("upstream-") && **reason != *"upstream-gone";
            if is { *count } else { 0 }
        };
        let rejected: u64 = shares.rejected.iter().map(of_upstream).sum();
        let credited = shares.accepted - shares.kept;
        assert!(self.ledger.received <= shares.forwarded, "{shares:?}");
        assert!(credited <= accepted && rejected <= refused, "{shares:?}");
        if !self.climate.cuts {
            assert!(shares.lost.is_empty(), "{shares:?}");
            assert_eq!(self.ledger.received, shares.forwarded, "{shares:?}");
            assert_eq!((credited, rejected), (accepted, refused), "{shares:?}");
            if !self.climate.rules.disorderly {
                assert_eq!(shares.upstream_work, work, "{shares:?}");
            }
        }
    }
}

async fn all_is_counted(rules: Rules, cuts: bool) {
    for seed in 0..SEEDS {
        for aggregate in [false, true] {
            for acknowledge in [Acknowledge::Local, Acknowledge::Upstream] {
                let climate = Climate {
                    aggregate,
                    acknowledge,
                    rules,
                    cuts,
                    most_in_flight: 8,
                    queue: 3,
                };
                println!("seed {seed}, {climate:?}");
                World::new(seed, climate).run().await;
            }
        }
    }
}

const BY_THE_BOOK: Rules = Rules {
    refuses_one_in: 0,
    disorderly: false,
    refuses_channels: false,
    lies: false,
};

const MOODY: Rules = Rules {
    refuses_one_in: 5,
    disorderly: false,
    refuses_channels: true,
    lies: false,
};

#[tokio::test(start_paused = true)]
async fn where_nothing_is_cut_miners_have_exactly_what_the_pool_has_through_moves_and_all_that_pools_say()
 {
    all_is_counted(BY_THE_BOOK, false).await;
}

#[tokio::test(start_paused = true)]
async fn refused_shares_and_channels_are_counted_as_the_pool_counts_them() {
    all_is_counted(MOODY, false).await;
}

#[tokio::test(start_paused = true)]
async fn answers_in_any_order_leave_nothing_in_flight() {
    let rules = Rules {
        disorderly: true,
        ..MOODY
    };
    all_is_counted(rules, false).await;
}

#[tokio::test(start_paused = true)]
async fn every_share_is_accounted_for_when_connections_and_channels_end_at_any_moment() {
    all_is_counted(MOODY, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_whose_answers_mean_nothing_confuses_no_count() {
    let rules = Rules {
        lies: true,
        ..MOODY
    };
    all_is_counted(rules, true).await;
}
