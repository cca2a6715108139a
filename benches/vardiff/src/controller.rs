//! The two controllers behind one interface.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stratum_core::{
    bitcoin::Target as BitcoinTarget,
    channels_sv2::{Vardiff as _, VardiffState},
};
use work::{Difficulty, Hashrate, Vardiff};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    Sri,
}

pub(crate) enum Controller {
    Ours {
        vardiff: Box<Vardiff>,
        start: Instant,
    },
    Sri {
        state: VardiffState,
        hashrate: f32,
        since: f64,
        shares_per_minute: f64,
    },
}

/// What a controller asks for.
pub(crate) struct Asked {
    pub difficulty: f64,
    pub early_job: bool,
}

impl Controller {
    pub(crate) fn new(kind: Kind, shares_per_minute: f64, nominal: Hashrate) -> Self {
        match kind {
            Kind::Ours => {
                let start = Instant::now();
                Self::Ours {
                    vardiff: Box::new(Vardiff::new(shares_per_minute, nominal, start)),
                    start,
                }
            }
            Kind::Sri => Self::Sri {
                state: VardiffState::new_with_min(1.0)
                    .unwrap_or_else(|_| unreachable!("the clock is after 1970")),
                hashrate: nominal.value() as f32,
                since: 0.0,
                shares_per_minute,
            },
        }
    }

    /// How often it is asked where no share comes.
    pub(crate) fn tick_seconds(&self) -> f64 {
        match self {
            Self::Ours { .. } => 5.0,
            Self::Sri { .. } => 60.0,
        }
    }

    pub(crate) fn job_sent(&mut self, difficulty: f64, at: f64) {
        if let (Self::Ours { vardiff, start }, Ok(difficulty)) = (self, Difficulty::new(difficulty))
        {
            vardiff.job_sent(difficulty, moment(*start, at));
        }
    }

    pub(crate) fn share(&mut self, difficulty: f64, at: f64) {
        match self {
            Self::Ours { vardiff, start } => {
                if let Ok(difficulty) = Difficulty::new(difficulty) {
                    vardiff.share_accepted(difficulty, moment(*start, at));
                }
            }
            Self::Sri { .. } => self.shares(1),
        }
    }

    /// So many shares at once, for the controller that only counts.
    pub(crate) fn shares(&mut self, count: u64) {
        if let Self::Sri { state, .. } = self {
            let sum = u64::from(state.shares_since_last_update) + count;
            state.set_shares_since_last_update(u32::try_from(sum).unwrap_or(u32::MAX));
        }
    }

    /// What it wants to set where the present difficulty is this.
    pub(crate) fn ask(&mut self, present: f64, at: f64) -> Option<Asked> {
        match self {
            Self::Ours { vardiff, start } => {
                let present = Difficulty::new(present).ok()?;
                let retarget = vardiff.retarget(present, moment(*start, at))?;
                Some(Asked {
                    difficulty: retarget.difficulty.value(),
                    early_job: retarget.urgent,
                })
            }
            Self::Sri {
                state,
                hashrate,
                since,
                shares_per_minute,
            } => {
                // It reads the system's clock, so the simulated time is told as that of its last update.
                let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
                state.set_timestamp_of_last_update(now - (at - *since) as u64);
                let target = Difficulty::new(present).ok()?.target();
                let target = BitcoinTarget::from_le_bytes(target.to_le_bytes());
                let asked = state
                    .try_vardiff(*hashrate, &target, *shares_per_minute as f32)
                    .ok()??;
                *hashrate = asked;
                *since = at;
                let hashrate = Hashrate::new(asked.into()).ok()?;
                Some(Asked {
                    difficulty: hashrate.difficulty_for(*shares_per_minute)?.value(),
                    early_job: false,
                })
            }
        }
    }

    pub(crate) fn counts_only(&self) -> bool {
        matches!(self, Self::Sri { .. })
    }
}

fn moment(start: Instant, seconds: f64) -> Instant {
    start + Duration::from_secs_f64(seconds)
}
