//! A clock that does not step, because hashrates are work over time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::Now;

/// The system's time at the start, and what has passed since.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    start: Now,
}

impl Clock {
    pub(super) fn start() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            start: Now {
                instant: Instant::now(),
                unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            },
        }
    }

    pub(super) fn now(&self) -> Now {
        let instant = Instant::now();
        let passed = instant.saturating_duration_since(self.start.instant);
        let passed_ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        Now {
            instant,
            unix_ms: self.start.unix_ms.saturating_add(passed_ms),
        }
    }
}
