//! What a pool refuses or sends in vain. A miner or a pool can bring it about at will, so that it is counted, and the log
//! has it once for a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Complaint {
    ChannelRefused,
    UpdateRefused,
    /// Before the block that it builds on.
    EarlyJob,
    BadJob,
}

impl Complaint {
    const ALL: [(Self, &'static str); 4] = [
        (Self::ChannelRefused, "channel-refused"),
        (Self::UpdateRefused, "update-refused"),
        (Self::EarlyJob, "early-job"),
        (Self::BadJob, "bad-job"),
    ];
}

/// How often, over all connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Complaints(Arc<[AtomicU64; Complaint::ALL.len()]>);

impl Complaints {
    /// By reason.
    pub(crate) fn by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = Complaint::ALL.iter().map(|(_, name)| *name);
        names.zip(self.0.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

/// Those of one connection.
#[derive(Debug, Default)]
pub(super) struct Said {
    total: Complaints,
    said: [bool; Complaint::ALL.len()],
}

impl Said {
    pub(super) fn new(total: Complaints) -> Self {
        Self {
            total,
            said: Default::default(),
        }
    }

    /// Counts it, and says whether it is the first of its kind here.
    pub(super) fn is_new(&mut self, complaint: Complaint) -> bool {
        let index = complaint as usize;
        self.total.0[index].fetch_add(1, Ordering::Relaxed);
        !std::mem::replace(&mut self.said[index], true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_complaint_is_counted_and_is_new_once_for_a_connection() {
        let total = Complaints::default();
        for _ in 0..2 {
            let mut connection = Said::new(total.clone());
            assert!(connection.is_new(Complaint::EarlyJob));
            assert!(!connection.is_new(Complaint::EarlyJob));
            assert!(connection.is_new(Complaint::BadJob));
        }
        let counts: Vec<_> = total.by_reason().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counts, [("early-job", 4), ("bad-job", 2)]);
        for (index, (complaint, _)) in Complaint::ALL.into_iter().enumerate() {
            assert_eq!(complaint as usize, index);
        }
    }
}
