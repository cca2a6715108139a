//! Extranonce prefixes that are never given out twice.

use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of a prefix.
pub(crate) const PREFIX_SIZE: usize = 8;

/// Bytes that the miner rolls behind the prefix, unless it asks for more.
pub(crate) const ROLLABLE_SIZE: usize = 8;

/// The largest extranonce that SV2 allows (`B0_32`).
pub(crate) const LARGEST_EXTRANONCE: usize = 32;

/// What makes the coinbases of one channel different from those of all others: `server_id`, the process's boot number,
/// and a number within the process. No share of one channel is one of another, whichever process it was found for.
pub(crate) type Prefix = [u8; PREFIX_SIZE];

/// Gives out prefixes.
#[derive(Debug)]
pub(crate) struct Prefixes {
    server_id: u16,
    boot: u16,
    next: AtomicU32,
}

impl Prefixes {
    /// For the start of the process that has this number. After 65,536 starts prefixes come again, long after their tip.
    pub(crate) fn of_start(server_id: u16, boot: u64) -> Self {
        #[allow(clippy::cast_possible_truncation)]
        Self::new(server_id, boot as u16)
    }

    pub(crate) fn new(server_id: u16, boot: u16) -> Self {
        Self {
            server_id,
            boot,
            next: AtomicU32::new(0),
        }
    }

    /// A prefix that no channel has had. After 2^32 of them the first come again, long after their tip.
    pub(crate) fn allocate(&self) -> Prefix {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut prefix = [0; PREFIX_SIZE];
        prefix[..2].copy_from_slice(&self.server_id.to_be_bytes());
        prefix[2..4].copy_from_slice(&self.boot.to_be_bytes());
        prefix[4..].copy_from_slice(&number.to_be_bytes());
        prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_gives_out_other_prefixes() {
        let first = Prefixes::of_start(7, 65_535);
        let (a, b) = (first.allocate(), first.allocate());
        let second = Prefixes::of_start(7, 65_536);
        let c = second.allocate();
        assert!(a != b && a != c && b != c);
        assert_eq!(a[..2], [0, 7]);
    }
}
