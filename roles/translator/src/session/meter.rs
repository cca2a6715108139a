//! The hashrate that a miner's shares show.

use std::time::{Duration, Instant};

use work::Hashrate;

/// How far back a share still counts for much. Shares come a few a minute, so less would be noise.
const MEMORY: Duration = Duration::from_secs(120);

/// The least time between two reports to the upstream.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// The first may come sooner: with a target that is far too easy, a miner sends more than a pool suffers within seconds.
const FIRST_REPORT: Duration = Duration::from_secs(1);

/// Fewer shares than this, faded as their work is, say nothing.
const ENOUGH_SHARES: f64 = 8.0;

/// A gap longer than so many usual ones is a pause, which says nothing about the hashrate: by chance it would come once in
/// e^10 gaps.
const PAUSE: f64 = 10.0;

/// A shorter gap than this is never a pause.
const SHORTEST_PAUSE: Duration = Duration::from_secs(10);

/// An average of the work over time that forgets exponentially, corrected for the time when nothing was measured yet.
#[derive(Debug)]
pub(super) struct Meter {
    /// Moved on by pauses, as `updated` is.
    started: Instant,
    updated: Instant,
    hashes: f64,
    /// Shares, fading as their work does.
    shares: f64,
    reported: Hashrate,
    next_report: Instant,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            started: now,
            updated: now,
            hashes: 0.0,
            shares: 0.0,
            reported: Hashrate::ZERO,
            next_report: now + FIRST_REPORT,
        }
    }

    /// The upstream was told this hashrate with the request for a channel.
    pub(super) fn told(&mut self, now: Instant, hashrate: Hashrate) {
        self.reported = hashrate;
        self.next_report = now + FIRST_REPORT;
    }

    /// Counts a share of so many hashes.
    pub(super) fn add(&mut self, now: Instant, work: u128) {
        self.skip_pause(now);
        self.decay(now);
        #[allow(clippy::cast_precision_loss)]
        let hashes = work as f64;
        self.hashes += hashes;
        self.shares += 1.0;
    }

    /// A share that was counted moments ago was none.
    pub(super) fn take_back(&mut self, work: u128) {
        #[allow(clippy::cast_precision_loss)]
        let hashes = work as f64;
        self.hashes = (self.hashes - hashes).max(0.0);
        self.shares = (self.shares - 1.0).max(0.0);
    }

    /// What the shares show, fading while none comes.
    pub(super) fn rate(&self, now: Instant) -> Hashrate {
        let exposure = self.exposure(now);
        let hashes = self.hashes * self.fading(now);
        if exposure > 0.0 {
            Hashrate::new(hashes / exposure).unwrap_or(Hashrate::ZERO)
        } else {
            Hashrate::ZERO
        }
    }

    /// The hashrate at the last share, if enough shares speak for it. Silence after it is for the upstream to judge.
    pub(super) fn known(&self) -> Option<Hashrate> {
        Some(self.rate(self.updated))
            .filter(|rate| self.shares >= ENOUGH_SHARES && *rate > Hashrate::ZERO)
    }

    /// The hashrate to tell the upstream, if it is more than a factor of two from what that knows. To be asked after a share.
    pub(super) fn report(&mut self, now: Instant) -> Option<Hashrate> {
        if now < self.next_report {
            return None;
        }
        let rate = self.known()?;
        let (seen, known) = (rate.value(), self.reported.value());
        if seen <= 2.0 * known && known <= 2.0 * seen {
            return None;
        }
        self.next_report = now + REPORT_INTERVAL;
        self.reported = rate;
        Some(rate)
    }

    /// The hashrate to tell the upstream with something else: as stated, or as seen, or as it was told before.
    pub(super) fn state(&mut self, now: Instant, stated: Option<Hashrate>) -> Hashrate {
        self.reported = stated.or(self.known()).unwrap_or(self.reported);
        self.next_report = now + REPORT_INTERVAL;
        self.reported
    }

    fn skip_pause(&mut self, now: Instant) {
        if self.shares <= 0.0 {
            return;
        }
        let usual = self.exposure(self.updated) / self.shares;
        let longest = Duration::try_from_secs_f64(PAUSE * usual)
            .unwrap_or(Duration::MAX)
            .max(SHORTEST_PAUSE);
        let gap = now.saturating_duration_since(self.updated);
        let pause = gap.saturating_sub(longest);
        self.started += pause;
        self.updated += pause;
    }

    fn decay(&mut self, now: Instant) {
        let fading = self.fading(now);
        self.hashes *= fading;
        self.shares *= fading;
        self.updated = now.max(self.updated);
    }

    /// Seconds measured, those long ago counting less.
    fn exposure(&self, now: Instant) -> f64 {
        let measured = now.saturating_duration_since(self.started).as_secs_f64();
        MEMORY.as_secs_f64() * (1.0 - (-measured / MEMORY.as_secs_f64()).exp())
    }

    fn fading(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.updated);
        (-since.as_secs_f64() / MEMORY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use work::Difficulty;

    #[test]
    fn a_steady_miner_is_measured_and_reported_once() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        let work = Difficulty::new(1000.0).unwrap().target().work();
        let mut reports = Vec::new();
        for second in (5..=600).step_by(5) {
            let now = start + Duration::from_secs(second);
            meter.add(now, work);
            reports.extend(meter.report(now));
        }
        let expected = 1000.0 * 4_294_967_296.0 / 5.0;
        assert_eq!(reports.len(), 1, "{reports:?}");
        assert!(
            (reports[0].value() / expected - 1.0).abs() < 0.2,
            "{reports:?}"
        );
        assert!(
            (meter.rate(start + Duration::from_secs(600)).value() / expected - 1.0).abs() < 0.1
        );
    }

    #[test]
    fn a_silent_miner_fades() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        meter.add(
            start + Duration::from_secs(60),
            Difficulty::ONE.target().work(),
        );
        let soon = meter.rate(start + Duration::from_secs(61)).value();
        let late = meter.rate(start + Duration::from_secs(661)).value();
        assert!(late < soon / 50.0 && late > 0.0);
        assert_eq!(meter.report(start + Duration::from_secs(661)), None);
    }

    #[test]
    fn one_batch_at_the_start_does_not_hide_what_follows() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        let work = Difficulty::ONE.target().work();
        (0..20).for_each(|_| meter.add(start, work));
        assert_eq!(meter.known(), None);
        for second in (20..=1200).step_by(20) {
            meter.add(start + Duration::from_secs(second), work);
        }
        let (seen, expected) = (meter.rate(meter.updated).value(), 4_294_967_296.0 / 20.0);
        assert!((seen / expected - 1.0).abs() < 0.2, "{seen} {expected}");
    }
}
