//! What became of a miner's shares. Each is counted once, and the counts add up.

/// Counts of one miner, or sums of them: `submitted = accepted + rejected + lost + in flight`, always.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// `mining.submit`s that came, well-formed or not.
    pub submitted: u64,
    /// Sent to the upstream.
    pub forwarded: u64,
    /// Acknowledged by the upstream, or kept.
    pub accepted: u64,
    /// Accepted ones that the upstream was not told of: they meet what the miner was asked for and not its channel's target.
    pub kept: u64,
    /// Answered with `true` to the miner, which is another question than whether the upstream took it.
    pub told_accepted: u64,
    /// Forwarded and not answered yet.
    pub in_flight: u64,
    /// Work of the accepted shares: hashes expected for the targets that the miner was asked for.
    pub accepted_work: u128,
    /// Work of the acknowledged shares: hashes expected for the targets of their channels, which is what the upstream credits.
    pub upstream_work: u128,
    /// Most miners have none of them.
    failed: Option<Box<Failed>>,
}

/// What was not accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Failed {
    rejected: [u64; RejectReason::ALL.len()],
    lost: [u64; LossReason::ALL.len()],
}

impl Clone for Tally {
    fn clone(&self) -> Self {
        Self {
            failed: self.failed.clone(),
            ..*self
        }
    }

    /// Needs no memory where there is some already: a miner's task calls it all the time.
    fn clone_from(&mut self, source: &Self) {
        let mut failed = self.failed.take();
        match (&mut failed, &source.failed) {
            (Some(old), Some(new)) => **old = **new,
            (old, new) => *old = new.clone(),
        }
        *self = Self { failed, ..*source };
    }
}

impl Tally {
    /// Shares refused here or by the upstream.
    pub fn rejected(&self) -> u64 {
        self.rejections().map(|(_, count)| count).sum()
    }

    /// Shares whose fate is unknown.
    pub fn lost(&self) -> u64 {
        self.losses().map(|(_, count)| count).sum()
    }

    /// Refused shares by reason, without those that are zero.
    pub fn rejected_by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.rejections().filter(|count| count.1 > 0)
    }

    /// Lost shares by reason, without those that are zero.
    pub fn lost_by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.losses().filter(|count| count.1 > 0)
    }

    /// Refused shares by every reason that there is.
    pub fn rejections(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.failed.as_ref().map(|failed| failed.rejected);
        RejectReason::ALL.iter().map(move |reason| {
            let count = counts.map_or(0, |counts| counts[*reason as usize]);
            (reason.name(), count)
        })
    }

    /// Lost shares by every reason that there is.
    pub fn losses(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.failed.as_ref().map(|failed| failed.lost);
        LossReason::ALL.iter().map(move |reason| {
            let count = counts.map_or(0, |counts| counts[*reason as usize]);
            (reason.name(), count)
        })
    }

    /// Adds another tally.
    pub fn add(&mut self, other: &Self) {
        self.submitted += other.submitted;
        self.forwarded += other.forwarded;
        self.accepted += other.accepted;
        self.kept += other.kept;
        self.told_accepted += other.told_accepted;
        self.in_flight += other.in_flight;
        self.accepted_work = self.accepted_work.saturating_add(other.accepted_work);
        self.upstream_work = self.upstream_work.saturating_add(other.upstream_work);
        if let Some(theirs) = &other.failed {
            let ours = self.failed.get_or_insert_default();
            let rejected = ours.rejected.iter_mut().zip(theirs.rejected);
            let lost = ours.lost.iter_mut().zip(theirs.lost);
            rejected.chain(lost).for_each(|(sum, count)| *sum += count);
        }
    }

    /// The upstream took a share, of that worth for the miner and for the upstream.
    pub(crate) fn acknowledged(&mut self, [work, upstream_work]: [u128; 2]) {
        self.in_flight -= 1;
        self.accepted += 1;
        self.accepted_work = self.accepted_work.saturating_add(work);
        self.upstream_work = self.upstream_work.saturating_add(upstream_work);
    }

    /// A share counts here and goes no further.
    pub(crate) fn keep(&mut self, work: u128) {
        self.accepted += 1;
        self.kept += 1;
        self.accepted_work = self.accepted_work.saturating_add(work);
    }

    pub(crate) fn reject(&mut self, reason: RejectReason) {
        self.failed.get_or_insert_default().rejected[reason as usize] += 1;
    }

    pub(crate) fn lose(&mut self, reason: LossReason, shares: u64) {
        if shares > 0 {
            self.failed.get_or_insert_default().lost[reason as usize] += shares;
            self.in_flight -= shares;
        }
    }
}

/// Why a share was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// The parameters of the submit could not be read.
    Malformed,
    /// No `mining.subscribe` before.
    NotSubscribed,
    /// The worker was not authorised.
    Unauthorized,
    /// The job is unknown, or its block is no longer the tip.
    JobNotFound,
    /// The job came from an upstream connection that is no more.
    UpstreamGone,
    /// extranonce2 has another size than was agreed.
    BadExtranonce,
    /// The time is before the job's or too far in the future.
    BadTime,
    /// Bits of the version were rolled that may not be.
    BadVersion,
    /// The hash does not meet the job's target.
    LowDifficulty,
    /// The same header was submitted before.
    Duplicate,
    /// It is too easy for the upstream, and there were so many of its kind on this block that it cannot be told from a
    /// repetition.
    TooMany,
    /// The upstream says that the job or its block is gone.
    UpstreamStale,
    /// The upstream had the share before.
    UpstreamDuplicate,
    /// The upstream says that the hash does not meet the target.
    UpstreamLowDifficulty,
    /// Any other reason of the upstream's.
    UpstreamOther,
}

impl RejectReason {
    const ALL: [Self; 15] = [
        Self::Malformed,
        Self::NotSubscribed,
        Self::Unauthorized,
        Self::JobNotFound,
        Self::UpstreamGone,
        Self::BadExtranonce,
        Self::BadTime,
        Self::BadVersion,
        Self::LowDifficulty,
        Self::Duplicate,
        Self::TooMany,
        Self::UpstreamStale,
        Self::UpstreamDuplicate,
        Self::UpstreamLowDifficulty,
        Self::UpstreamOther,
    ];

    /// As it stands in the status and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NotSubscribed => "not-subscribed",
            Self::Unauthorized => "unauthorized",
            Self::JobNotFound => "job-not-found",
            Self::UpstreamGone => "upstream-gone",
            Self::BadExtranonce => "bad-extranonce",
            Self::BadTime => "bad-time",
            Self::BadVersion => "bad-version",
            Self::LowDifficulty => "low-difficulty",
            Self::Duplicate => "duplicate",
            Self::TooMany => "too-many",
            Self::UpstreamStale => "upstream-stale",
            Self::UpstreamDuplicate => "upstream-duplicate",
            Self::UpstreamLowDifficulty => "upstream-low-difficulty",
            Self::UpstreamOther => "upstream-other",
        }
    }

    /// The reason that stands for an upstream's error code (SV2 `SubmitShares.Error`).
    pub fn from_upstream(code: &str) -> Self {
        match code {
            "stale-share" | "invalid-job-id" => Self::UpstreamStale,
            "duplicate-share" => Self::UpstreamDuplicate,
            "difficulty-too-low" => Self::UpstreamLowDifficulty,
            _ => Self::UpstreamOther,
        }
    }
}

/// Why the fate of a share is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossReason {
    /// The connection to the upstream ended before it answered.
    UpstreamDisconnected,
    /// The upstream closed the channel before it answered.
    ChannelClosed,
    /// The miner left or the translator stopped, and the upstream did not answer in the time that was left. It may have
    /// accepted the share all the same: some acknowledge only when a batch is full.
    Unanswered,
}

impl LossReason {
    const ALL: [Self; 3] = [
        Self::UpstreamDisconnected,
        Self::ChannelClosed,
        Self::Unanswered,
    ];

    /// As it stands in the status and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::UpstreamDisconnected => "upstream-disconnected",
            Self::ChannelClosed => "channel-closed",
            Self::Unanswered => "outcome-unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        let mut tally = Tally {
            in_flight: 6,
            ..Tally::default()
        };
        RejectReason::ALL
            .iter()
            .for_each(|reason| tally.reject(*reason));
        LossReason::ALL
            .iter()
            .for_each(|reason| tally.lose(*reason, 2));
        assert!(tally.rejected_by_reason().all(|(_, count)| count == 1));
        assert_eq!(
            (tally.rejected(), tally.lost(), tally.in_flight),
            (15, 6, 0)
        );
        let mut names: Vec<_> = tally
            .rejected_by_reason()
            .chain(tally.lost_by_reason())
            .map(|(name, _)| name)
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), RejectReason::ALL.len() + LossReason::ALL.len());
    }
}
