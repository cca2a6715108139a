//! Who is told of new work first: connections are in tiers by their hashrate, and the heaviest tier is told first.
//!
//! A connection waits for the work of its tier. Waking all of them at once would give no order, because a thread's run
//! queue that overflows moves its oldest tasks behind everything else; so the publisher lets those of one tier run before
//! it wakes the next.

use std::{array, sync::Arc};

use tokio::{sync::watch, task::yield_now};
use work::Hashrate;

/// What tasks that yield let run: tokio polls so many tasks until those that yielded have their turn again (its
/// `event_interval`), fewer where there are no more to run.
const TASKS_BEFORE_RETURN: usize = 61;

/// How many tiers there are.
const TIERS: usize = 8;

/// What a connection in the heaviest tier has at least. Each further tier begins a factor of ten below; the last is for
/// whoever has less than a terahash a second, and for those that have no channel.
const HEAVIEST: f64 = 1e18;

/// A connection changes its tier when its hashrate is beyond the tier's bound by this factor, so that one near a bound
/// does not move with each estimate.
const HYSTERESIS: f64 = 1.5;

/// A tier by its number; the heaviest is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tier(usize);

impl Tier {
    /// Where connections start.
    pub(crate) const LAST: Self = Self(TIERS - 1);

    /// Where a connection of this hashrate belongs that is here now.
    #[must_use]
    pub(crate) fn follow(self, hashrate: Hashrate) -> Self {
        let heavier = Self::of(hashrate.value() / HYSTERESIS);
        let lighter = Self::of(hashrate.value() * HYSTERESIS);
        if heavier < self {
            heavier
        } else {
            lighter.max(self)
        }
    }

    fn of(hashes_per_second: f64) -> Self {
        let mut least = HEAVIEST;
        let mut tier = 0;
        while tier < Self::LAST.0 && hashes_per_second < least {
            least /= 10.0;
            tier += 1;
        }
        Self(tier)
    }
}

/// The connections' end: the newest value, for each tier.
#[derive(Debug)]
pub(crate) struct Tiers<T>([watch::Receiver<Option<Arc<T>>>; TIERS]);

impl<T> Tiers<T> {
    /// What a connection in this tier waits for.
    pub(crate) fn subscribe(&self, tier: Tier) -> watch::Receiver<Option<Arc<T>>> {
        self.0[tier.0].clone()
    }
}

/// The end that publishes.
#[derive(Debug)]
pub(crate) struct Publisher<T>([watch::Sender<Option<Arc<T>>>; TIERS]);

/// A publisher of nothing yet, and the connections' end.
pub(crate) fn channel<T>() -> (Publisher<T>, Tiers<T>) {
    let publisher = Publisher(array::from_fn(|_| watch::channel(None).0));
    let tiers = Tiers(array::from_fn(|tier| publisher.0[tier].subscribe()));
    (publisher, tiers)
}

impl<T> Publisher<T> {
    /// Tells all connections, those with the most work first. On a thread with nothing else to do a tier has been served
    /// when the next is told; on a busy one that is put off for no longer than all connections of the tier take in any case.
    pub(crate) async fn publish(&self, value: Arc<T>) {
        for tier in &self.0 {
            tier.send_replace(Some(Arc::clone(&value)));
            // One is the receiver that others are made of.
            let told = tier.receiver_count().saturating_sub(1);
            for _ in 0..told.div_ceil(TASKS_BEFORE_RETURN) {
                yield_now().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        pin::pin,
        sync::{Arc, Mutex},
    };

    use proptest::prelude::*;

    use super::*;

    fn hashrate(value: f64) -> Hashrate {
        Hashrate::new(value).unwrap()
    }

    #[tokio::test]
    async fn connections_with_more_work_are_told_before_those_with_less() {
        let (publisher, tiers) = channel();
        let told = Arc::new(Mutex::new(Vec::new()));
        // They come in no order, with up to 250 in a tier.
        let rates: Vec<f64> = (0_u32..2000)
            .map(|n| 10_f64.powi(i32::try_from(n * 7919 % 8).unwrap() + 11) * 3.0)
            .collect();
        let connections: Vec<_> = rates
            .iter()
            .map(|rate| {
                let tier = Tier::LAST.follow(hashrate(*rate));
                let mut work = tiers.subscribe(tier);
                let told = Arc::clone(&told);
                tokio::spawn(async move {
                    work.changed().await.unwrap();
                    let number = work.borrow_and_update().as_deref().copied();
                    told.lock().unwrap().push((tier, number));
                })
            })
            .collect();
        // All of them wait before anything is published.
        for _ in 0..rates.len() {
            yield_now().await;
        }
        // Whenever the publisher stops for others: all tiers but the one that it is at have run.
        let mut publishing = pin!(publisher.publish(Arc::new(7)));
        poll_fn(|context| {
            let polled = publishing.as_mut().poll(context);
            let woken = tiers.0.iter().filter(|work| work.has_changed().unwrap());
            let done = 250 * woken.count().saturating_sub(1);
            assert!(told.lock().unwrap().len() >= done, "{done} should be done");
            polled
        })
        .await;
        for connection in connections {
            connection.await.unwrap();
        }
        let told = told.lock().unwrap();
        assert_eq!(told.len(), rates.len());
        assert!(told.iter().all(|(_, number)| *number == Some(7)));
        assert!(told.is_sorted_by_key(|(tier, _)| *tier), "{told:?}");
    }

    #[test]
    fn a_tier_is_a_factor_of_ten_wide() {
        let tier = |rate| Tier::LAST.follow(hashrate(rate));
        assert_eq!(tier(0.0), Tier::LAST);
        assert_eq!(tier(9e11), Tier::LAST);
        assert_eq!(tier(3e12), Tier(6));
        assert_eq!(tier(2e14), Tier(4));
        assert_eq!(tier(2e18), Tier(0));
        assert_eq!(tier(1e30), Tier(0));
    }

    #[test]
    fn a_connection_near_a_bound_stays_where_it_is() {
        for rate in [0.8e15, 1e15, 1.2e15] {
            assert_eq!(Tier(3).follow(hashrate(rate)), Tier(3));
            assert_eq!(Tier(4).follow(hashrate(rate)), Tier(4));
        }
        assert_eq!(Tier(4).follow(hashrate(2e15)), Tier(3));
        assert_eq!(Tier(3).follow(hashrate(0.5e15)), Tier(4));
    }

    proptest! {
        #[test]
        fn following_settles_at_once(start in 0..TIERS, exponent in 0.0..25.0) {
            let rate = hashrate(10_f64.powf(exponent));
            let tier = Tier(start).follow(rate);
            prop_assert_eq!(tier.follow(rate), tier);
        }

        #[test]
        fn ten_times_the_work_is_never_told_later(exponent in 0.0..24.0, start in 0..TIERS) {
            let rate = 10_f64.powf(exponent);
            let light = Tier(start).follow(hashrate(rate));
            prop_assert!(Tier::LAST.follow(hashrate(rate * 10.0 * HYSTERESIS)) <= light);
        }
    }
}
