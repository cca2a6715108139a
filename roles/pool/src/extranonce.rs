//! Extranonce prefixes that are never given out twice.

use std::sync::atomic::{AtomicU64, Ordering};

use tracing::error;

/// Bytes of a prefix.
pub(crate) const PREFIX_SIZE: usize = 8;

/// Bytes that the miner rolls behind the prefix, unless it asks for more.
pub(crate) const ROLLABLE_SIZE: usize = 8;

/// The largest extranonce that SV2 allows (`B0_32`).
pub(crate) const LARGEST_EXTRANONCE: usize = 32;

/// What makes the coinbases of one channel different from those of all others: `server_id`, the process's boot number,
/// and a number within the process. No share of one channel is one of another, whichever process it was found for.
pub(crate) type Prefix = [u8; PREFIX_SIZE];

/// What 32 bits cannot hold.
const FIRST_TOO_MANY: u64 = 1 << 32;

/// Gives out prefixes.
#[derive(Debug)]
pub(crate) struct Prefixes {
    server_id: u16,
    boot: u16,
    next: AtomicU64,
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
            next: AtomicU64::new(0),
        }
    }

    /// A prefix that no channel has had; none when the process has given out 2^32 of them.
    pub(crate) fn allocate(&self) -> Option<Prefix> {
        // Of 64 bits, so that it does not come round.
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number == FIRST_TOO_MANY {
            error!("all extranonce prefixes of this start are used up: restart the pool");
        }
        let number = u32::try_from(number).ok()?;
        let mut prefix = [0; PREFIX_SIZE];
        prefix[..2].copy_from_slice(&self.server_id.to_be_bytes());
        prefix[2..4].copy_from_slice(&self.boot.to_be_bytes());
        prefix[4..].copy_from_slice(&number.to_be_bytes());
        Some(prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_gives_out_other_prefixes() {
        let first = Prefixes::of_start(7, 65_535);
        let (a, b) = (first.allocate().unwrap(), first.allocate().unwrap());
        let second = Prefixes::of_start(7, 65_536);
        let c = second.allocate().unwrap();
        assert!(a != b && a != c && b != c);
        assert_eq!(a[..2], [0, 7]);
    }

    #[test]
    fn a_prefix_is_refused_rather_than_given_out_twice() {
        let prefixes = Prefixes::new(7, 1);
        assert!(prefixes.allocate().is_some());
        prefixes.next.store(FIRST_TOO_MANY - 1, Ordering::Relaxed);
        let last = prefixes.allocate().unwrap();
        assert_eq!(last[4..], [0xff; 4]);
        assert_eq!([prefixes.allocate(), prefixes.allocate()], [None, None]);
    }
}
