//! Work over time of one subject, from which its hashrate and its charts come.
//!
//! A subject tells absolute counts from time to time, so what is known of the work between two reports is how much it was.
//! It is spread evenly over the time between them: a report that comes after an hour without a link makes an hour of
//! ordinary hashrate, not a peak.

use std::collections::{BTreeMap, VecDeque};

/// Of work that is told at once, that of the last day is sampled.
const LONGEST_SPREAD_MS: u64 = 24 * 60 * 60 * 1000;

/// A hashrate over less time than this would be a matter of luck.
const SHORTEST_MEASURE_MS: u64 = 20_000;

/// The time of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// 10 s; kept in memory alone.
    TenSeconds,
    /// 1 min.
    Minute,
    /// 10 min.
    TenMinutes,
    /// 1 h.
    Hour,
}

impl Period {
    /// All of them, shortest first.
    pub const ALL: [Self; 4] = [Self::TenSeconds, Self::Minute, Self::TenMinutes, Self::Hour];

    /// Its length in milliseconds.
    #[must_use]
    pub const fn ms(self) -> u64 {
        match self {
            Self::TenSeconds => 10_000,
            Self::Minute => 60_000,
            Self::TenMinutes => 600_000,
            Self::Hour => 3_600_000,
        }
    }

    /// The time whose samples are held in memory.
    #[must_use]
    pub const fn held_ms(self) -> u64 {
        self.held() as u64 * self.ms()
    }

    /// How many of them are held in memory; the latest ones.
    const fn held(self) -> usize {
        match self {
            Self::TenSeconds => 13,
            Self::Minute => 61,
            Self::TenMinutes => 145,
            Self::Hour => 25,
        }
    }
}

/// The time over which a hashrate is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Window {
    /// 1 min.
    Minute,
    /// 10 min.
    TenMinutes,
    /// 1 h.
    Hour,
    /// 24 h.
    Day,
}

impl Window {
    /// All of them, shortest first.
    pub const ALL: [Self; 4] = [Self::Minute, Self::TenMinutes, Self::Hour, Self::Day];

    const fn ms(self) -> u64 {
        match self {
            Self::Minute => 60_000,
            Self::TenMinutes => 600_000,
            Self::Hour => 3_600_000,
            Self::Day => 86_400_000,
        }
    }

    /// The samples that it is made of.
    const fn period(self) -> Period {
        match self {
            Self::Minute => Period::TenSeconds,
            Self::TenMinutes | Self::Hour => Period::Minute,
            Self::Day => Period::TenMinutes,
        }
    }
}

/// Work in one period.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// How long.
    pub period: Period,
    /// When it began.
    pub start_ms: u64,
    /// Expected hashes.
    pub hashes: f64,
}

/// Work of one subject over time. The time is whoever's who drives it, and should not step.
#[derive(Debug, Clone)]
pub struct Series {
    levels: [Level; Period::ALL.len()],
}

#[derive(Debug, Clone)]
struct Level {
    period: Period,
    /// Since when it is known what the subject did.
    since_ms: u64,
    /// The number of the first of `hashes`, counted from the epoch.
    first: u64,
    hashes: VecDeque<f64>,
    /// Numbers of samples that were not taken to be stored since they changed.
    changed: BTreeMap<u64, ()>,
}

impl Series {
    /// A subject that nothing is known of before this moment.
    #[must_use]
    pub fn new(since_ms: u64) -> Self {
        Self {
            levels: Period::ALL.map(|period| Level::new(period, since_ms)),
        }
    }

    /// A subject whose samples were stored before a restart. What was not yet stored of a longer one is put together from
    /// minutes.
    #[must_use]
    pub fn restored(now_ms: u64, samples: &[Sample]) -> Self {
        let mut series = Self::new(now_ms);
        let minutes = || samples.iter().filter(|s| s.period == Period::Minute);
        for level in &mut series.levels {
            let period = level.period;
            for sample in samples.iter().filter(|s| s.period == period) {
                level.put(sample);
            }
            if period.ms() > Period::Minute.ms() {
                level.complete(minutes());
            }
        }
        series
    }

    /// So many hashes were done between two moments.
    pub fn add(&mut self, from_ms: u64, to_ms: u64, hashes: f64) {
        let from_ms = from_ms.min(to_ms);
        let oldest_ms = to_ms.saturating_sub(LONGEST_SPREAD_MS);
        // From a whole hour on: a part of a sample would look like a rise of the hashrate.
        let held_from_ms = match from_ms < oldest_ms {
            true => oldest_ms.next_multiple_of(Period::Hour.ms()),
            false => from_ms,
        };
        // What was done earlier than that belongs there, and is in the totals alone.
        let hashes = match seconds(to_ms - from_ms) {
            0.0 => hashes,
            all => hashes * (seconds(to_ms - held_from_ms) / all),
        };
        let from_ms = held_from_ms;
        for level in &mut self.levels {
            level.since_ms = level.since_ms.min(from_ms);
            level.add(from_ms, to_ms, hashes);
        }
    }

    /// The hashrate over a window that ends now, in H/s; none if too little of it is known.
    #[must_use]
    pub fn hashrate(&self, now_ms: u64, window: Window) -> Option<f64> {
        let level = self.level(window.period())?;
        let from_ms = now_ms.saturating_sub(window.ms()).max(level.since_ms);
        let measured = now_ms.saturating_sub(from_ms);
        if measured < SHORTEST_MEASURE_MS {
            return None;
        }
        Some(level.sum(from_ms, now_ms) / seconds(measured))
    }

    /// What is held of a period, the oldest first; the last one may not be over.
    pub fn samples(&self, period: Period) -> impl Iterator<Item = Sample> {
        let held = self.level(period).into_iter();
        held.flat_map(move |level| {
            (level.first..)
                .zip(&level.hashes)
                .map(move |(number, hashes)| Sample {
                    period,
                    start_ms: number * period.ms(),
                    hashes: *hashes,
                })
        })
    }

    fn level(&self, period: Period) -> Option<&Level> {
        self.levels.iter().find(|level| level.period == period)
    }

    /// Samples of periods that are over and have changed since they were taken last, but those that are kept in memory alone.
    pub fn take_samples(&mut self, now_ms: u64) -> Vec<Sample> {
        self.levels
            .iter_mut()
            .filter(|level| level.period != Period::TenSeconds)
            .flat_map(|level| level.take_changed(now_ms))
            .collect()
    }
}

impl Level {
    fn new(period: Period, since_ms: u64) -> Self {
        Self {
            period,
            since_ms,
            first: 0,
            hashes: VecDeque::new(),
            changed: BTreeMap::new(),
        }
    }

    fn add(&mut self, from_ms: u64, to_ms: u64, hashes: f64) {
        let period = self.period.ms();
        let (begin, end) = (from_ms / period, to_ms / period);
        let length = seconds(to_ms - from_ms);
        // Of what is older than what is held, nothing would stay.
        let oldest = end.saturating_sub(self.period.held() as u64);
        for number in begin.max(oldest)..=end {
            let part = if begin == end {
                1.0
            } else {
                let start = from_ms.max(number * period);
                let stop = to_ms.min((number + 1) * period);
                seconds(stop - start) / length
            };
            if part > 0.0
                && let Some(place) = self.place(number)
            {
                *place += hashes * part;
                self.changed.insert(number, ());
            }
        }
    }

    fn put(&mut self, sample: &Sample) {
        if let Some(place) = self.place(sample.start_ms / self.period.ms()) {
            *place += sample.hashes;
            self.since_ms = self.since_ms.min(sample.start_ms);
        }
    }

    /// No sample can be less than its minutes together.
    fn complete<'a>(&mut self, minutes: impl Iterator<Item = &'a Sample>) {
        let mut sums = BTreeMap::<u64, f64>::new();
        for minute in minutes {
            self.since_ms = self.since_ms.min(minute.start_ms);
            *sums.entry(minute.start_ms / self.period.ms()).or_default() += minute.hashes;
        }
        for (number, sum) in sums {
            if let Some(place) = self.place(number)
                && *place < sum
            {
                *place = sum;
                self.changed.insert(number, ());
            }
        }
    }

    /// The sample with this number, if it is not too old to be held.
    fn place(&mut self, number: u64) -> Option<&mut f64> {
        let held = self.period.held() as u64;
        if self.hashes.is_empty() {
            self.first = number;
        }
        let newest = self.first + self.hashes.len() as u64;
        if number >= newest + held {
            // Nothing that is held is recent enough to stay.
            self.hashes.clear();
            self.first = number;
        }
        if number < self.first {
            let oldest = newest.saturating_sub(held);
            if number < oldest {
                return None;
            }
            for _ in number..self.first {
                self.hashes.push_front(0.0);
            }
            self.first = number;
        }
        while self.first + (self.hashes.len() as u64) <= number {
            self.hashes.push_back(0.0);
        }
        while self.hashes.len() > self.period.held() {
            self.hashes.pop_front();
            self.first += 1;
        }
        let first = self.first;
        self.changed.retain(|number, ()| *number >= first);
        let at = usize::try_from(number - self.first).ok()?;
        self.hashes.get_mut(at)
    }

    /// What was done between two moments. A sample at the edge counts by the part of it that is inside; the first one began
    /// when the subject did.
    fn sum(&self, from_ms: u64, to_ms: u64) -> f64 {
        let period = self.period.ms();
        let part = |(number, hashes): (u64, &f64)| {
            let stop = (number + 1) * period;
            let start = (number * period).max(self.since_ms).min(stop - 1);
            // Of the present sample, what there is was done up to now.
            let stop_known = stop.min(to_ms.max(start + 1));
            let inside = stop_known.min(to_ms).saturating_sub(start.max(from_ms));
            hashes * seconds(inside) / seconds(stop_known - start)
        };
        (self.first..).zip(&self.hashes).map(part).sum()
    }

    fn take_changed(&mut self, now_ms: u64) -> Vec<Sample> {
        let present = now_ms / self.period.ms();
        let later = self.changed.split_off(&present);
        let over = std::mem::replace(&mut self.changed, later);
        over.into_keys()
            .filter_map(|number| {
                let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
                Some(Sample {
                    period: self.period,
                    start_ms: number * self.period.ms(),
                    hashes: *self.hashes.get(at)?,
                })
            })
            .collect()
    }
}

/// Exact up to 2^53 ms.
#[allow(clippy::cast_precision_loss)]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A moment in the middle of everything.
    const START: u64 = 1_700_000_123_456;

    fn close(seen: Option<f64>, expected: f64) -> bool {
        seen.is_some_and(|seen| (seen / expected - 1.0).abs() < 0.02)
    }

    /// A subject that does 1 kH/s and says so every five seconds.
    fn steady(seconds: u64) -> (Series, u64) {
        let mut series = Series::new(START);
        let mut now = START;
        for _ in 0..seconds / 5 {
            series.add(now, now + 5000, 5000.0);
            now += 5000;
        }
        (series, now)
    }

    #[test]
    fn work_of_a_month_that_is_told_at_once_is_a_months_hashrate() {
        const MONTH_MS: u64 = 30 * LONGEST_SPREAD_MS;
        let now_ms = 2 * MONTH_MS + 1_234_567;
        let mut series = Series::new(now_ms);
        series.add(now_ms - MONTH_MS, now_ms, 7.0 * seconds(MONTH_MS));
        for window in Window::ALL {
            let rate = series.hashrate(now_ms, window).unwrap();
            assert!((rate - 7.0).abs() < 0.01, "{window:?}: {rate}");
        }
        for period in [Period::TenMinutes, Period::Hour] {
            let first = series.samples(period).next().unwrap();
            let whole = 7.0 * seconds(period.ms());
            assert!((first.hashes / whole - 1.0).abs() < 0.01, "{first:?}");
        }
    }

    #[test]
    fn a_steady_subject_has_its_hashrate_in_every_window_from_the_start() {
        for seconds in [20, 65, 700, 4000, 100_000] {
            let (series, now) = steady(seconds);
            for window in Window::ALL {
                let seen = series.hashrate(now, window);
                assert!(close(seen, 1000.0), "{seconds} {window:?} {seen:?}");
            }
        }
    }

    #[test]
    fn at_the_start_nothing_is_said_rather_than_nonsense() {
        let (series, now) = steady(15);
        assert_eq!(series.hashrate(now, Window::Minute), None);
    }

    #[test]
    fn a_subject_that_stops_fades_window_by_window() {
        let (series, now) = steady(4000);
        let later = now + 10 * 60_000;
        assert_eq!(series.hashrate(later, Window::Minute), Some(0.0));
        assert!(close(
            series.hashrate(later, Window::Hour),
            1000.0 * 50.0 / 60.0
        ));
    }

    #[test]
    fn what_comes_late_is_no_peak() {
        let (mut series, now) = steady(600);
        // The link was away for half an hour; the subject was not.
        let later = now + 30 * 60_000;
        series.add(now, later, 1000.0 * 1800.0);
        for window in Window::ALL {
            let seen = series.hashrate(later, window);
            assert!(close(seen, 1000.0), "{window:?} {seen:?}");
        }
    }

    #[test]
    fn samples_are_stored_when_their_period_is_over_and_again_when_they_change() {
        let (mut series, now) = steady(7300);
        let samples = series.take_samples(now);
        let of = |period| samples.iter().filter(move |sample| sample.period == period);
        assert_eq!(of(Period::TenSeconds).count(), 0);
        assert!(of(Period::Minute).count() >= 60);
        assert!(of(Period::Hour).count() >= 2);
        assert!(
            of(Period::TenMinutes)
                .skip(1)
                .all(|sample| close(Some(sample.hashes), 600_000.0))
        );
        assert!(series.take_samples(now).is_empty());
        let minute = of(Period::Minute).next_back().copied().unwrap();
        series.add(minute.start_ms, minute.start_ms + 1, 1.0);
        let again = series.take_samples(now);
        assert!(again.contains(&Sample {
            hashes: minute.hashes + 1.0,
            ..minute
        }));
    }

    #[test]
    fn after_a_restart_the_hashrate_goes_on() {
        let (mut series, now) = steady(7300);
        let restored = Series::restored(now, &series.take_samples(now));
        let seen = restored.hashrate(now, Window::Hour);
        assert!(close(seen, 1000.0), "{seen:?}");
        // What is held in memory alone begins anew.
        assert_eq!(restored.hashrate(now, Window::Minute), None);
    }

    #[test]
    fn a_longer_sample_that_was_not_over_is_made_of_its_minutes() {
        let (mut series, now) = steady(7300);
        let samples = series.take_samples(now);
        let mut restored = Series::restored(now, &samples);
        let hour = now / Period::Hour.ms() * Period::Hour.ms();
        let minutes = samples
            .iter()
            .filter(|s| s.period == Period::Minute && s.start_ms >= hour);
        let done: f64 = minutes.map(|minute| minute.hashes).sum();
        assert!(done > 0.0);
        let later = restored.take_samples(now + Period::Hour.ms());
        let stored = later.iter().find(|s| s.period == Period::Hour);
        assert!(
            close(stored.map(|sample| sample.hashes), done),
            "{stored:?} {done}"
        );
    }

    proptest! {
        #[test]
        fn memory_is_bounded_and_no_work_is_invented(
            reports in proptest::collection::vec((0u64..200_000_000, 0u64..200_000_000, 0.0..1e15f64), 1..60),
        ) {
            let mut series = Series::new(START);
            let mut all = 0.0;
            for (at, length, hashes) in reports {
                series.add(START + at, START + at + length, hashes);
                all += hashes;
                for level in &series.levels {
                    prop_assert!(level.hashes.len() <= level.period.held());
                    prop_assert!(level.changed.len() <= level.period.held());
                    let sum: f64 = level.hashes.iter().sum();
                    prop_assert!(sum <= all * 1.000_001, "{} {}", sum, all);
                    prop_assert!(level.hashes.iter().all(|hashes| *hashes >= 0.0));
                }
            }
        }
    }
}
