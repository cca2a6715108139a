//! How long a client may be of no use.

use std::time::{Duration, Instant};

use work::Target;

use super::Mining;
use crate::{limits::EXPECTED_SHARES, session::Fault};

/// What a client can get by saying that its shares are rare.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

impl Mining {
    /// When the client has to go, and why, if it says nothing.
    pub(super) fn patience_end(&self) -> Option<(Instant, Fault)> {
        let allowance = self.resources.settings.allowance;
        self.patience
            .end(allowance, self.has_channels(), self.work.is_some())
    }

    pub(super) fn check_patience(&mut self, now: Instant) -> Result<(), Fault> {
        match self.patience_end() {
            // All channels are asked only when it matters.
            Some((at, Fault::Idle)) if now >= at => {
                let longer = self.time_of_rare_shares();
                if self.patience.grant(longer, now) {
                    Ok(())
                } else {
                    Err(Fault::Idle)
                }
            }
            Some((at, fault)) if now >= at => Err(fault),
            _ => Ok(()),
        }
    }

    /// The time in which a client finds [`EXPECTED_SHARES`] where its own limit, or the pool's, keeps the difficulty above
    /// what it is up to. It counts what the client said of its hashrate: silence makes the estimate ever smaller.
    fn time_of_rare_shares(&self) -> Duration {
        let shares_per_second: f64 = self
            .channels
            .iter()
            .filter_map(|channel| {
                let easiest = self.clamp(channel.max_target()).apply(Target::MAX);
                let one_a_second = channel.nominal().difficulty_for(60.0)?;
                Some(one_a_second.value() / easiest.difficulty().value())
            })
            .sum();
        if shares_per_second <= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(EXPECTED_SHARES / shares_per_second)
            .map_or(LONGEST, |time| time.min(LONGEST))
    }
}
