//! Which of several sources to use, without I/O: what they show and the time go in, a choice comes out.
//!
//! A source is good while it answers and no other that does is ahead of it, and never while it is behind what is mined
//! on: a block is at stake with each second on an old tip, so health alone does not make a source fit to take over.
//! The same holds for the source in use: one that restarts and is still catching up does not take the pool back to an older
//! tip while another source has the newer one.
//! Height stands for work here. Between sources on one chain it says the same, and a template tells no more.

use std::time::Duration;

use tokio::time::Instant;

/// How patient the choice is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// How long the source in use may be away or behind.
    pub(super) leave_after: Duration,
    /// How long one that is preferred has to be steady before it is used again.
    pub(super) return_after: Duration,
}

/// What a source shows at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    /// It has a fresh template for the chain in question, and nothing is wrong.
    pub(super) answers: bool,
    /// Height of its template.
    pub(super) height: Option<u32>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    /// The source to use, as its place in the order.
    pub(super) place: usize,
    /// What it has is worth mining on; otherwise what was published before is.
    pub(super) publish: bool,
}

pub(super) struct Selector {
    patience: Patience,
    records: Vec<Record>,
    used: Option<usize>,
}

struct Record {
    /// Since when it is not good; nothing while it is.
    bad_since: Option<Instant>,
    /// Since when nothing was wrong with it but short delays behind others.
    steady_since: Instant,
}

impl Selector {
    pub(super) fn new(patience: Patience, sources: usize, now: Instant) -> Self {
        let record = || Record {
            bad_since: Some(now),
            steady_since: now,
        };
        Self {
            patience,
            records: std::iter::repeat_with(record).take(sources).collect(),
            used: None,
        }
    }

    /// What to use now. `mined` is the height of what is mined on.
    pub(super) fn choose(
        &mut self,
        views: &[View],
        mined: Option<u32>,
        now: Instant,
    ) -> Option<Choice> {
        let answering = views.iter().filter(|view| view.answers);
        let highest = answering.map(|view| view.height).max().flatten();
        // Its chain may have been reorganised. Then nobody is held to what it gave before.
        let taken_back = self
            .used
            .is_some_and(|used| views[used].answers && views[used].height < mined);
        let least = match taken_back {
            true => highest,
            false => highest.max(mined),
        };
        let good: Vec<bool> = views
            .iter()
            .map(|view| view.answers && view.height >= least)
            .collect();
        for ((record, view), good) in self.records.iter_mut().zip(views).zip(&good) {
            record.see(view.answers, *good, self.patience.leave_after, now);
        }
        let before = self.used;
        self.used = match before {
            Some(used) if good[used] => self.preferred(used, now).or(Some(used)),
            // Whoever is good at the moment is better than one that was left.
            Some(used) if self.is_left(used, now) => {
                good.iter().position(|good| *good).or(Some(used))
            }
            Some(used) => Some(used),
            // At the start, those that are preferred get the same time to answer.
            None => (0..good.len())
                .find(|place| good[*place] || !self.is_left(*place, now))
                .filter(|place| good[*place]),
        };
        if self.used != before {
            self.not_at_once_again(now);
        }
        self.used.map(|place| Choice {
            place,
            publish: good[place] || views[place].height >= mined,
        })
    }

    /// One before the source in use that is good again, and not only for a moment.
    fn preferred(&self, used: usize, now: Instant) -> Option<usize> {
        self.records[..used].iter().position(|record| {
            record.bad_since.is_none()
                && now.saturating_duration_since(record.steady_since) >= self.patience.return_after
        })
    }

    /// Those that were not good when they were needed have to be steady from now on.
    fn not_at_once_again(&mut self, now: Instant) {
        for record in &mut self.records[..self.used.unwrap_or(0)] {
            record.steady_since = now;
        }
    }

    fn is_left(&self, place: usize, now: Instant) -> bool {
        self.records[place].is_bad_for(self.patience.leave_after, now)
    }
}

impl Record {
    fn see(&mut self, answers: bool, good: bool, leave_after: Duration, now: Instant) {
        if !good {
            self.bad_since.get_or_insert(now);
        }
        // A new block reaches one source before the other, which says nothing against the other.
        if !answers || self.is_bad_for(leave_after, now) {
            self.steady_since = now;
        }
        if good {
            self.bad_since = None;
        }
    }

    fn is_bad_for(&self, time: Duration, now: Instant) -> bool {
        self.bad_since
            .is_some_and(|since| now.saturating_duration_since(since) >= time)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AWAY: View = View {
        answers: false,
        height: None,
    };

    fn at(height: u32) -> View {
        View {
            answers: true,
            height: Some(height),
        }
    }

    /// Sources in order, and a clock in seconds.
    struct Scene {
        selector: Selector,
        start: Instant,
        mined: Option<u32>,
    }

    impl Scene {
        fn new(sources: usize) -> Self {
            let start = Instant::now();
            let patience = Patience {
                leave_after: Duration::from_secs(15),
                return_after: Duration::from_secs(60),
            };
            Self {
                selector: Selector::new(patience, sources, start),
                start,
                mined: None,
            }
        }

        fn at(&mut self, second: u64, views: &[View]) -> Option<usize> {
            let now = self.start + Duration::from_secs(second);
            let choice = self.selector.choose(views, self.mined, now)?;
            if choice.publish && views[choice.place].height.is_some() {
                self.mined = views[choice.place].height;
            }
            Some(choice.place)
        }
    }

    #[test]
    fn the_first_source_is_used_and_another_waits_for_its_time() {
        let mut scene = Scene::new(3);
        assert_eq!(scene.at(0, &[AWAY, AWAY, AWAY]), None);
        assert_eq!(scene.at(3, &[AWAY, AWAY, at(7)]), None);
        assert_eq!(scene.at(5, &[at(7), AWAY, at(7)]), Some(0));

        let mut scene = Scene::new(3);
        assert_eq!(scene.at(14, &[AWAY, AWAY, at(7)]), None);
        assert_eq!(scene.at(15, &[AWAY, AWAY, at(7)]), Some(2));
    }

    #[test]
    fn a_source_that_is_away_is_left_after_the_time_and_not_before() {
        let mut scene = Scene::new(2);
        scene.at(0, &[at(7), at(7)]);
        assert_eq!(scene.at(100, &[AWAY, at(7)]), Some(0));
        assert_eq!(scene.at(114, &[AWAY, at(7)]), Some(0));
        assert_eq!(scene.at(115, &[AWAY, at(7)]), Some(1));
        // A moment without an answer is forgotten.
        let mut scene = Scene::new(2);
        scene.at(0, &[at(7), at(7)]);
        scene.at(100, &[AWAY, at(7)]);
        scene.at(110, &[at(7), at(7)]);
        assert_eq!(scene.at(120, &[AWAY, at(7)]), Some(0));
    }

    #[test]
    fn a_return_waits_until_the_first_source_is_steady() {
        let mut scene = Scene::new(2);
        scene.at(0, &[AWAY, at(7)]);
        assert_eq!(scene.at(15, &[AWAY, at(7)]), Some(1));
        assert_eq!(scene.at(20, &[at(7), at(7)]), Some(1));
        assert_eq!(scene.at(70, &[at(7), at(7)]), Some(1));
        // Away for a moment: the time begins anew.
        assert_eq!(scene.at(71, &[AWAY, at(7)]), Some(1));
        assert_eq!(scene.at(72, &[at(7), at(7)]), Some(1));
        assert_eq!(scene.at(130, &[at(7), at(7)]), Some(1));
        assert_eq!(scene.at(131, &[at(7), at(7)]), Some(0));
    }

    #[test]
    fn a_block_that_comes_a_little_later_does_not_hinder_a_return() {
        let mut scene = Scene::new(2);
        scene.at(0, &[AWAY, at(7)]);
        scene.at(15, &[AWAY, at(7)]);
        scene.at(20, &[at(7), at(7)]);
        assert_eq!(scene.at(70, &[at(7), at(8)]), Some(1));
        // Not while it is behind, though.
        assert_eq!(scene.at(81, &[at(7), at(8)]), Some(1));
        assert_eq!(scene.at(82, &[at(8), at(8)]), Some(0));
    }

    #[test]
    fn a_source_that_stays_behind_is_left_for_the_one_ahead() {
        let mut scene = Scene::new(3);
        scene.at(0, &[at(7), at(7), at(7)]);
        assert_eq!(scene.at(100, &[at(7), at(7), at(8)]), Some(0));
        assert_eq!(scene.at(114, &[at(7), at(7), at(8)]), Some(0));
        assert_eq!(scene.at(115, &[at(7), at(7), at(8)]), Some(2));
        // Being there is not enough to be returned to.
        assert_eq!(scene.at(500, &[at(7), at(7), at(8)]), Some(2));
        assert_eq!(scene.at(600, &[at(8), at(7), at(8)]), Some(2));
        assert_eq!(scene.at(660, &[at(8), at(7), at(8)]), Some(0));
    }

    #[test]
    fn a_source_on_an_older_tip_never_takes_over() {
        let mut scene = Scene::new(2);
        scene.at(0, &[at(8), at(7)]);
        assert_eq!(scene.at(100, &[AWAY, at(7)]), Some(0));
        assert_eq!(scene.at(1000, &[AWAY, at(7)]), Some(0));
        // On the same height it may be another tip; which of both wins, nobody knows.
        assert_eq!(scene.at(1001, &[AWAY, at(8)]), Some(1));
    }

    #[test]
    fn a_reorganisation_of_the_source_in_use_is_its_own_affair() {
        let mut scene = Scene::new(2);
        scene.at(0, &[at(8), at(8)]);
        assert_eq!(scene.at(100, &[at(7), at(7)]), Some(0));
        assert_eq!(scene.at(200, &[at(7), at(7)]), Some(0));
        assert_eq!(scene.mined, Some(7));
    }

    #[test]
    fn a_source_that_restarts_behind_another_takes_nobody_back() {
        let mut scene = Scene::new(2);
        scene.at(0, &[at(9), at(9)]);
        assert_eq!(scene.at(100, &[at(7), at(9)]), Some(0));
        assert_eq!(scene.at(105, &[at(8), at(9)]), Some(0));
        assert_eq!(scene.mined, Some(9));
        // It has the time that any source has.
        assert_eq!(scene.at(114, &[at(8), at(9)]), Some(0));
        assert_eq!(scene.at(115, &[at(8), at(10)]), Some(1));
        assert_eq!(scene.mined, Some(10));
    }

    #[test]
    fn a_source_that_lags_behind_another_still_goes_forward() {
        let mut scene = Scene::new(2);
        scene.at(0, &[at(7), at(7)]);
        assert_eq!(scene.at(100, &[at(8), at(9)]), Some(0));
        assert_eq!(scene.mined, Some(8));
    }

    #[test]
    fn a_tip_that_no_source_has_any_more_is_not_waited_for() {
        let mut scene = Scene::new(2);
        scene.at(0, &[at(9), at(8)]);
        assert_eq!(scene.at(100, &[at(7), at(8)]), Some(0));
        assert_eq!(scene.mined, Some(9));
        assert_eq!(scene.at(115, &[at(7), at(8)]), Some(1));
        assert_eq!(scene.mined, Some(8));
    }

    proptest! {
        /// Whatever the sources do, what is mined on goes back only where none that answers has it any more, what takes
        /// over is one of the highest, and nothing changes all the time.
        #[test]
        fn no_change_of_source_goes_back(
            steps in prop::collection::vec(
                (0u64..20, prop::collection::vec((any::<bool>(), 0u32..4), 3)), 1..200),
        ) {
            let mut scene = Scene::new(3);
            let (mut second, mut used, mut changed) = (0, None::<usize>, 0);
            for (seconds, shown) in steps {
                second += seconds;
                let views: Vec<View> = shown
                    .into_iter()
                    .map(|(answers, height)| View { answers, height: Some(height) })
                    .collect();
                let mined = scene.mined;
                let now = scene.at(second, &views);
                if used.is_none() && now.is_some() {
                    changed = second;
                }
                let answering = || views.iter().filter(|view| view.answers);
                if scene.mined < mined {
                    prop_assert!(answering().all(|view| view.height < mined));
                }
                if let (Some(before), Some(now)) = (used, now) && before != now {
                    prop_assert!(views[now].answers);
                    prop_assert!(answering().all(|view| view.height <= views[now].height));
                    prop_assert!(views[now].height >= mined || views[before].answers);
                    prop_assert!(second - changed >= 15);
                    changed = second;
                }
                prop_assert!(used.is_none() || now.is_some());
                used = now;
            }
        }
    }
}
