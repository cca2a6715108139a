//! What a share is judged by.

use std::{
    collections::HashSet,
    hash::{BuildHasherDefault, Hasher},
};

use stratum_core::mining_sv2;

/// Why a share does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Rejection {
    /// The channel does not exist on this connection.
    InvalidChannelId,
    /// The job was never sent on this channel.
    InvalidJobId,
    /// The job was valid once.
    Stale,
    /// The extranonce has another size than the channel's.
    BadExtranonceSize,
    /// The header's time is before the job's or too far in the future.
    InvalidTime,
    /// A version bit is changed that must not be (BIP 320, BIP 323).
    InvalidVersion,
    /// The same header was accepted before.
    Duplicate,
    /// The hash does not meet the job's target.
    DifficultyTooLow,
}

impl Rejection {
    /// All of them, in the order of the counters.
    pub(crate) const ALL: [Self; 8] = [
        Self::InvalidChannelId,
        Self::InvalidJobId,
        Self::Stale,
        Self::BadExtranonceSize,
        Self::InvalidTime,
        Self::InvalidVersion,
        Self::Duplicate,
        Self::DifficultyTooLow,
    ];

    /// The code that the protocol has for it (SV2 5.3.13).
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::InvalidChannelId => mining_sv2::ERROR_CODE_SUBMIT_SHARES_INVALID_CHANNEL_ID,
            Self::InvalidJobId => mining_sv2::ERROR_CODE_SUBMIT_SHARES_INVALID_JOB_ID,
            Self::Stale => mining_sv2::ERROR_CODE_SUBMIT_SHARES_STALE_SHARE,
            Self::BadExtranonceSize => mining_sv2::ERROR_CODE_SUBMIT_SHARES_BAD_EXTRANONCE_SIZE,
            Self::InvalidTime => mining_sv2::ERROR_CODE_SUBMIT_SHARES_INVALID_SHARE,
            Self::InvalidVersion => {
                mining_sv2::ERROR_CODE_SUBMIT_SHARES_INVALID_NON_ROLLABLE_VERSION_BIT
            }
            Self::Duplicate => mining_sv2::ERROR_CODE_SUBMIT_SHARES_DUPLICATE_SHARE,
            Self::DifficultyTooLow => mining_sv2::ERROR_CODE_SUBMIT_SHARES_DIFFICULTY_TOO_LOW,
        }
    }

    /// The name of its counter.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InvalidTime => "invalid-time",
            other => other.code(),
        }
    }
}

/// Header hashes that were accepted on one tip with one extranonce prefix.
///
/// Half of each hash is kept: a chance of 2^-64 for 2^32 shares that a valid one is refused.
#[derive(Debug, Default)]
pub(crate) struct Seen(HashSet<u128, BuildHasherDefault<OwnBits>>);

impl Seen {
    /// How many are remembered before the channel gets another prefix, which makes repetition impossible.
    pub(crate) const CAPACITY: usize = 1 << 15;

    /// Remembers the hash; false if it was there before.
    pub(crate) fn insert(&mut self, hash: &[u8; 32]) -> bool {
        self.0.insert(key(hash))
    }

    pub(crate) fn contains(&self, hash: &[u8; 32]) -> bool {
        self.0.contains(&key(hash))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= Self::CAPACITY
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The least significant half, which is evenly spread however small the hash is.
fn key(hash: &[u8; 32]) -> u128 {
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    u128::from_le_bytes(half)
}

/// A hash needs no hashing; a miner cannot choose it but by mining.
#[derive(Debug, Default)]
struct OwnBits(u64);

impl Hasher for OwnBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, value: u128) {
        #[allow(clippy::cast_possible_truncation)]
        {
            self.0 = value as u64;
        }
    }
}
