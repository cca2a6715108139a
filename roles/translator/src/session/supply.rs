//! Work on its way to the miner: what is in force for a job, and what the miner has to be told with it.

use stratum_v1::{ExtranonceBytes, write_set_difficulty, write_set_version_mask};
use work::{Difficulty, Target};

use super::recent::{Terms, Worth};
use super::{Now, Output, Session};
use crate::job::Work;

impl Session {
    /// Sends a job of the channel with this number.
    pub(super) fn send_work(
        &mut self,
        now: Now,
        channel: u32,
        padding: usize,
        work: Work,
        out: &mut Output,
    ) {
        let mut hole = [0; 32];
        let prefix = &work.extranonce_prefix;
        // The router has checked that prefix and extranonce fit the 32 bytes that there are.
        let Some(hole) = hole.get_mut(..prefix.len() + padding) else {
            return;
        };
        hole[..prefix.len()].copy_from_slice(prefix);
        let Some(hole) = ExtranonceBytes::new(hole) else {
            return;
        };

        let allowed = if work.job.version_rolling {
            self.settings.version_mask
        } else {
            0
        };
        let version_mask = self.negotiated_mask.unwrap_or(self.settings.version_mask) & allowed;
        if self.negotiated_mask.is_some() && self.told.version_mask != Some(version_mask) {
            write_set_version_mask(&mut out.bytes, version_mask);
            self.told.version_mask = Some(version_mask);
        }
        let terms = self.terms(channel, work.target, hole, version_mask);
        let asked = terms.asked;
        self.told.difficulty(&asked, &mut out.bytes);
        let (id, clean_jobs) = self.recent.push(work.job.clone(), terms);
        work.job
            .write_notify_as(&mut out.bytes, id, &hole, clean_jobs);
        self.notifications += 1;
        self.job_is_sent(now, &asked);
    }

    fn terms(
        &self,
        channel: u32,
        target: Target,
        hole: ExtranonceBytes,
        version_mask: u32,
    ) -> Terms {
        let newest = self.recent.newest().map(|newest| &newest.terms);
        let worth = |target: Target| {
            // Mostly nothing has changed, and 5,000 miners wait for the work.
            newest
                .into_iter()
                .flat_map(|terms| [terms.asked, terms.upstream])
                .find(|known| known.target == target)
                .unwrap_or_else(|| Worth::of(target))
        };
        Terms {
            channel,
            asked: worth(self.asked(target)),
            upstream: worth(target),
            hole,
            version_mask,
        }
    }

    /// Sends the newest job once more, for another target.
    pub(super) fn send_again(&mut self, now: Now, asked: Target, out: &mut Output) {
        let Some(newest) = self.recent.newest() else {
            return;
        };
        let number = newest.terms.channel;
        if !self.takes_shares(number) {
            return;
        }
        let asked = Worth::of(asked);
        let Some(sent) = self.recent.push_again(asked) else {
            return;
        };
        self.told.difficulty(&asked, &mut out.bytes);
        sent.job
            .write_notify_as(&mut out.bytes, sent.id, &sent.terms.hole, false);
        self.notifications += 1;
        self.job_is_sent(now, &asked);
    }
}

/// What the miner was told last, so that it is told only what changes.
#[derive(Debug, Default)]
pub(super) struct Told {
    target: Option<Target>,
    pub(super) difficulty: Option<Difficulty>,
    pub(super) version_mask: Option<u32>,
}

impl Told {
    fn difficulty(&mut self, asked: &Worth, out: &mut Vec<u8>) {
        if self.target == Some(asked.target) {
            return;
        }
        self.target = Some(asked.target);
        let difficulty = asked.target.sv1_difficulty();
        if self.difficulty != Some(difficulty) {
            write_set_difficulty(out, difficulty.value());
            self.difficulty = Some(difficulty);
        }
    }
}
