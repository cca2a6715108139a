//! How long answers took: counts in buckets that grow with the time, so that memory is bounded and a percentile is known
//! to a sixteenth.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

const SUB_BITS: u32 = 4;
const SUBS: u64 = 1 << SUB_BITS;
/// From a microsecond to more than an hour.
const BUCKETS: usize = 29 << SUB_BITS;

/// Times, by bucket.
#[derive(Debug)]
pub(super) struct Latency([AtomicU64; BUCKETS]);

impl Default for Latency {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }
}

impl Latency {
    pub(super) fn record(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0[bucket(micros)].fetch_add(1, Relaxed);
    }

    /// The time within which so many of a hundred answers came, in milliseconds; none where there are none.
    pub(super) fn percentile_ms(&self, percent: u64) -> Option<f64> {
        let counts: Vec<u64> = self.0.iter().map(|count| count.load(Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let rank = (total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let at = counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        #[allow(clippy::cast_precision_loss)] // An hour in microseconds is exact.
        Some(upper(at) as f64 / 1e3)
    }
}

/// Below 16 µs a bucket is a microsecond wide; above, each doubling has 16.
fn bucket(micros: u64) -> usize {
    let doublings = micros.max(1).ilog2().saturating_sub(SUB_BITS);
    let at = u64::from(doublings) * SUBS + (micros >> doublings);
    usize::try_from(at).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// The longest time of a bucket, in microseconds.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * SUBS {
        return bucket;
    }
    let doublings = bucket / SUBS - 1;
    ((bucket % SUBS + SUBS + 1) << doublings) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_a_bucket_that_ends_within_a_sixteenth_of_it() {
        for micros in (0..5_000).chain([12_345, 1_000_000, 59_999_999, 3_600_000_000]) {
            let end = upper(bucket(micros));
            assert!(end >= micros, "{micros}: {end}");
            assert!(end - micros <= micros / 16, "{micros}: {end}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_times() {
        let latency = Latency::default();
        assert_eq!(latency.percentile_ms(50), None);
        for ms in 1..=100 {
            latency.record(Duration::from_millis(ms));
        }
        for percent in [50, 99] {
            let found = latency.percentile_ms(percent).unwrap();
            let exact = percent as f64;
            assert!(found >= exact && found <= exact * 17.0 / 16.0, "{found}");
        }
    }
}
