//! Miners that send all that they may.

use std::ops::Range;

use super::*;
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
    let (most, all) = (ENOUGH + 4 * EACH, flood.in_flight());
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
    assert_eq!(flood.of(4), EACH);

    flood.world.settle().await;
    flood.run(0..1);
    assert!(flood.of(0) >= ENOUGH, "the places are free again");
    flood.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_answers_in_batches_larger_than_the_allowance_gets_them() {
    let mut flood = Flood::new().await;
    flood.run(0..4);
    let before = flood.in_flight();
    for _ in 0..10 {
        flood.world.pass(Duration::from_millis(1100)).await;
        flood.run(0..4);
    }
    assert!(flood.in_flight() > 2 * before, "{before}");
    flood.end().await;
}
