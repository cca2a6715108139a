//! Tells when there have been no templates for so long that miners are better off elsewhere.

use std::time::{Duration, Instant};

use templates::Templates;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the source's health is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Whether the template source has been away for longer than `patience`, from now on until `shutdown`. Never, without one.
pub(crate) fn watch(
    templates: Templates,
    patience: Option<Duration>,
    shutdown: CancellationToken,
) -> watch::Receiver<bool> {
    let (publish, outage) = watch::channel(false);
    if let Some(patience) = patience {
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = look(templates, patience, publish) => {}
            }
        });
    }
    outage
}

async fn look(templates: Templates, patience: Duration, publish: watch::Sender<bool>) {
    let mut outage = Outage::new(patience);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let health = templates.health();
        let lasts = outage.lasts(health.fresh, Instant::now());
        let changed = publish.send_if_modified(|before| std::mem::replace(before, lasts) != lasts);
        match (changed, lasts) {
            (true, true) => {
                let error = health.error.unwrap_or_default();
                warn!(%error, "no templates for too long; clients are asked to go elsewhere");
            }
            (true, false) => info!("there are templates again"),
            (false, _) => {}
        }
    }
}

/// Since when there is nothing worth working on.
#[derive(Debug)]
struct Outage {
    patience: Duration,
    since: Option<Instant>,
}

impl Outage {
    fn new(patience: Duration) -> Self {
        Self {
            patience,
            since: None,
        }
    }

    /// Whether it has lasted too long, now that the newest template is fresh or not.
    fn lasts(&mut self, fresh: bool, now: Instant) -> bool {
        if fresh {
            self.since = None;
            return false;
        }
        now.duration_since(*self.since.get_or_insert(now)) >= self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_when_patience_is_over_and_ends_with_the_first_fresh_template() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut outage = Outage::new(Duration::from_secs(600));
        assert!(!outage.lasts(true, at(0)));
        assert!(!outage.lasts(false, at(100)));
        assert!(!outage.lasts(false, at(699)));
        assert!(outage.lasts(false, at(700)));
        assert!(outage.lasts(false, at(5000)));
        assert!(!outage.lasts(true, at(5001)));
        // The next one begins anew.
        assert!(!outage.lasts(false, at(5002)));
        assert!(!outage.lasts(false, at(5601)));
        assert!(outage.lasts(false, at(5602)));
    }
}
