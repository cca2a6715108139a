//! What was counted: of one connection, of a client, or of all.

use serde::Serialize;

/// Counts that only grow. "Sent" is towards the pool, "received" from it, here as in the translator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Totals {
    /// Connections of miners.
    pub connections: u64,
    /// How long they have lasted, all together, in milliseconds.
    pub connection_ms: u64,
    /// Bytes towards the pool.
    pub bytes_sent: u64,
    /// Bytes from the pool.
    pub bytes_received: u64,
    /// `mining.submit`s, well-formed or not.
    pub submits: u64,
    /// Shares that the pool accepted.
    pub accepted: u64,
    /// Shares that the pool refused, by [`Reason`].
    #[schema(value_type = Vec<u64>)]
    pub rejected: [u64; Reason::ALL.len()],
    /// Jobs that the pool sent.
    pub notifications: u64,
    /// Work of the accepted shares: expected hashes, exact. As text in JSON, whose numbers hold no more than 64 bits.
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String)]
    pub work: u128,
    /// What else the watcher noticed.
    pub noticed: Noticed,
    /// Times that a side was not read because the other took no more.
    pub pauses: u64,
    /// Times that it was read again: fewer than the pauses, where connections ended meanwhile.
    pub resumes: u64,
}

/// What a watcher could not make sense of. All of it was passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Noticed {
    /// Lines that are no message of SV1.
    pub malformed_lines: u64,
    /// Lines that were too long to be looked at.
    pub oversized_lines: u64,
    /// Requests that were not followed because too many were not answered, and answers to what was not followed.
    pub unmatched: u64,
    /// Changes of the difficulty.
    pub difficulty_changes: u64,
    /// Accepted shares of a difficulty that nobody has the hashes for. They are counted, their work is not.
    pub implausible_shares: u64,
}

impl Totals {
    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.connection_ms += other.connection_ms;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.submits += other.submits;
        self.accepted += other.accepted;
        for (count, more) in self.rejected.iter_mut().zip(other.rejected) {
            *count += more;
        }
        self.notifications += other.notifications;
        // A pool can claim any difficulty.
        self.work = self.work.saturating_add(other.work);
        self.noticed.malformed_lines += other.noticed.malformed_lines;
        self.noticed.oversized_lines += other.noticed.oversized_lines;
        self.noticed.unmatched += other.noticed.unmatched;
        self.noticed.difficulty_changes += other.noticed.difficulty_changes;
        self.noticed.implausible_shares += other.noticed.implausible_shares;
        self.pauses += other.pauses;
        self.resumes += other.resumes;
    }

    /// Refused shares by the reason's name, those that are zero included.
    pub fn rejections(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Reason::ALL
            .iter()
            .zip(self.rejected)
            .map(|(reason, count)| (reason.name(), count))
    }

    /// All refused shares.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected.iter().sum()
    }
}

fn as_text<S: serde::Serializer>(work: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(work)
}

/// Why a pool refused a share, by the error codes of SV1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// 20, or no code at all.
    Other,
    /// 21
    JobNotFound,
    /// 22
    Duplicate,
    /// 23
    LowDifficulty,
    /// 24
    Unauthorized,
    /// 25
    NotSubscribed,
}

impl Reason {
    /// All of them, in the order of [`Totals::rejected`].
    pub const ALL: [Self; 6] = [
        Self::Other,
        Self::JobNotFound,
        Self::Duplicate,
        Self::LowDifficulty,
        Self::Unauthorized,
        Self::NotSubscribed,
    ];

    /// What a pool's error code says.
    #[must_use]
    pub fn of_code(code: i64) -> Self {
        match code {
            21 => Self::JobNotFound,
            22 => Self::Duplicate,
            23 => Self::LowDifficulty,
            24 => Self::Unauthorized,
            25 => Self::NotSubscribed,
            _ => Self::Other,
        }
    }

    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::JobNotFound => "job-not-found",
            Self::Duplicate => "duplicate",
            Self::LowDifficulty => "low-difficulty",
            Self::Unauthorized => "unauthorized",
            Self::NotSubscribed => "not-subscribed",
        }
    }
}
