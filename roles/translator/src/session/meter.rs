//! The hashrate that a miner's shares show.

use std::time::{Duration, Instant};

use work::{Hashrate, Target};

/// How far back a share still counts for much. Shares come a few a minute, so less would be noise.
const MEMORY: Duration = Duration::from_secs(120);

/// How often the upstream may be told.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Fewer shares than this, faded as their work is, say nothing. A miner that pauses is below it before its hashrate seems
/// to be half: silence is for the upstream to judge.
const ENOUGH_SHARES: f64 = 8.0;

/// An average of the work over time that forgets exponentially, corrected for the time when nothing was measured yet.
#[derive(Debug)]
pub(super) struct Meter {
    started: Instant,
    updated: Instant,
    hashes: f64,
    /// Shares, fading as their work does.
    shares: f64,
    reported: Hashrate,
    next_report: Instant,
}

impl Meter {
    /// `reported` is what the upstream was told at opening.
    pub(super) fn new(now: Instant, reported: Hashrate) -> Self {
        Self {
            started: now,
            updated: now,
            hashes: 0.0,
            shares: 0.0,
            reported,
            next_report: now + REPORT_INTERVAL,
        }
    }

    pub(super) fn add(&mut self, now: Instant, target: &Target) {
        self.decay(now);
        #[allow(clippy::cast_precision_loss)]
        let hashes = target.work() as f64;
        self.hashes += hashes;
        self.shares += 1.0;
    }

    pub(super) fn rate(&self, now: Instant) -> Hashrate {
        let measured = now.saturating_duration_since(self.started).as_secs_f64();
        let exposure = MEMORY.as_secs_f64() * (1.0 - (-measured / MEMORY.as_secs_f64()).exp());
        let hashes = self.hashes * self.fading(now);
        if exposure > 0.0 {
            Hashrate::new(hashes / exposure).unwrap_or(Hashrate::ZERO)
        } else {
            Hashrate::ZERO
        }
    }

    /// The hashrate, if enough shares speak for it.
    pub(super) fn known(&self, now: Instant) -> Option<Hashrate> {
        (self.shares * self.fading(now) >= ENOUGH_SHARES).then(|| self.rate(now))
    }

    pub(super) fn next_report(&self) -> Instant {
        self.next_report
    }

    /// The hashrate to tell the upstream, if it is due and more than a factor of two from what it knows.
    pub(super) fn report(&mut self, now: Instant) -> Option<Hashrate> {
        if now < self.next_report {
            return None;
        }
        self.next_report = now + REPORT_INTERVAL;
        let rate = self.known(now)?;
        let (seen, known) = (rate.value(), self.reported.value());
        if seen <= 2.0 * known && known <= 2.0 * seen {
            return None;
        }
        self.reported = rate;
        Some(rate)
    }

    fn decay(&mut self, now: Instant) {
        let fading = self.fading(now);
        self.hashes *= fading;
        self.shares *= fading;
        self.updated = now.max(self.updated);
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
        let mut meter = Meter::new(start, Hashrate::ZERO);
        let target = Difficulty::new(1000.0).unwrap().target();
        let mut reports = Vec::new();
        for second in (5..=600).step_by(5) {
            let now = start + Duration::from_secs(second);
            meter.add(now, &target);
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
        let mut meter = Meter::new(start, Hashrate::ZERO);
        meter.add(start + Duration::from_secs(60), &Difficulty::ONE.target());
        let soon = meter.rate(start + Duration::from_secs(61)).value();
        let late = meter.rate(start + Duration::from_secs(661)).value();
        assert!(late < soon / 50.0 && late > 0.0);
        assert_eq!(meter.report(start + Duration::from_secs(661)), None);
    }
}
