//! A proof-of-work target: the largest hash, read as a number, that is accepted.

use std::fmt;

use primitive_types::{U256, U512};

use crate::{Difficulty, Error};

/// A 256-bit target, never zero. Larger is easier, and `Ord` compares it as a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target(U256);

impl Target {
    /// The easiest target there is: every hash meets it.
    pub const MAX: Self = Self(U256::MAX);

    /// The hardest target that this type holds.
    pub const MIN: Self = Self(U256([1, 0, 0, 0]));

    /// The target of difficulty 1, `0xffff << 208`, as Bitcoin and Stratum V1 define difficulty.
    pub const DIFFICULTY_1: Self = Self(U256([0, 0, 0, 0x0000_0000_ffff_0000]));

    /// Reads 32 bytes in wire order, least significant first (SV2 `U256`).
    pub fn from_le_bytes(bytes: [u8; 32]) -> Result<Self, Error> {
        let value = U256::from_little_endian(&bytes);
        if value.is_zero() {
            return Err(Error::ZeroTarget);
        }
        Ok(Self(value))
    }

    /// 32 bytes in wire order, least significant first (SV2 `U256`).
    pub fn to_le_bytes(self) -> [u8; 32] {
        self.0.to_little_endian()
    }

    /// Expands the compact form that block headers carry (`nBits`).
    pub fn from_compact(nbits: u32) -> Result<Self, Error> {
        let exponent = nbits >> 24;
        let mantissa = nbits & 0x007f_ffff;
        let negative = nbits & 0x0080_0000 != 0;
        let significant_bits = 32 - mantissa.leading_zeros();
        let fits = exponent <= 3 || significant_bits + 8 * (exponent - 3) <= 256;
        if negative || mantissa == 0 || !fits {
            return Err(Error::InvalidCompact(nbits));
        }
        let value = match exponent {
            0..=3 => U256::from(mantissa) >> (8 * (3 - exponent)),
            _ => U256::from(mantissa) << (8 * (exponent - 3)),
        };
        if value.is_zero() {
            return Err(Error::InvalidCompact(nbits));
        }
        Ok(Self(value))
    }

    /// Whether a header hash, in wire order, is good enough.
    pub fn is_met_by(&self, hash: &[u8; 32]) -> bool {
        U256::from_little_endian(hash) <= self.0
    }

    /// The expected number of hashes for one share, `floor(2^256 / (target + 1))`, which is how Bitcoin counts chain
    /// work. Saturates at `u128::MAX`, far beyond any network.
    pub fn work(&self) -> u128 {
        if self.0 == U256::MAX {
            return 1;
        }
        let work = !self.0 / (self.0 + U256::one()) + U256::one();
        if work > U256::from(u128::MAX) {
            u128::MAX
        } else {
            work.low_u128()
        }
    }

    /// `difficulty-1 target / target`, correct to the precision of `f64`.
    pub fn difficulty(&self) -> Difficulty {
        const SHIFT: usize = 128;
        let quotient = (U512::from(Self::DIFFICULTY_1.0) << SHIFT) / U512::from(self.0);
        // The quotient is at least 2^96 for every target, so its top 64 bits hold all that an f64 can.
        let excess = quotient.bits().saturating_sub(64);
        #[allow(clippy::cast_precision_loss)]
        let top = (quotient >> excess).low_u64() as f64;
        let exponent = i32::try_from(excess).unwrap_or(i32::MAX) - 128;
        Difficulty::new(top * 2f64.powi(exponent)).unwrap_or(Difficulty::ONE)
    }

    /// The difficulty to tell a Stratum V1 miner, rounded up: the target that the miner computes from it is never
    /// easier than this one, so that no share it sends falls short by rounding.
    pub fn sv1_difficulty(&self) -> Difficulty {
        let mut difficulty = self.difficulty();
        while difficulty.target() > *self {
            difficulty = difficulty.next_up();
        }
        difficulty
    }

    pub(crate) fn from_wide(value: U512) -> Self {
        let value = U256::try_from(value).unwrap_or(U256::MAX);
        if value.is_zero() {
            Self::MIN
        } else {
            Self(value)
        }
    }

    pub(crate) fn wide(self) -> U512 {
        U512::from(self.0)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({:064x})", self.0)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:064x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn compact_targets_expand_as_bitcoin_does() {
        assert_eq!(
            Target::from_compact(0x1d00_ffff).unwrap(),
            Target::DIFFICULTY_1
        );
        let regtest = Target::from_compact(0x207f_ffff).unwrap();
        assert_eq!(regtest.work(), 2);
        for bad in [
            0,
            0x0180_0001,
            0x2100_ffff + (1 << 24),
            0xff12_3456,
            0x0100_0001 & 0xff00_0000,
        ] {
            assert!(Target::from_compact(bad).is_err(), "{bad:#x}");
        }
    }

    #[test]
    fn work_is_what_bitcoin_counts() {
        assert_eq!(Target::MAX.work(), 1);
        assert_eq!(Target::DIFFICULTY_1.work(), 0x1_0001_0001);
        assert_eq!(Target::MIN.work(), u128::MAX);
    }

    #[test]
    fn difficulty_of_the_ends_is_finite() {
        assert_eq!(Target::DIFFICULTY_1.difficulty().value(), 1.0);
        assert!(Target::MAX.difficulty().value() > 0.0);
        assert!(Target::MIN.difficulty().value().is_finite());
    }

    proptest! {
        #[test]
        fn the_miner_never_gets_an_easier_target_by_rounding(bytes: [u8; 32]) {
            prop_assume!(bytes != [0; 32]);
            let target = Target::from_le_bytes(bytes).unwrap();
            prop_assert!(target.sv1_difficulty().target() <= target);
        }

        #[test]
        fn difficulty_and_target_agree_to_f64_precision(exponent in -30f64..100.0) {
            let difficulty = Difficulty::new(2f64.powf(exponent)).unwrap();
            let back = difficulty.target().difficulty();
            prop_assert!((back.value() / difficulty.value() - 1.0).abs() < 1e-12);
        }

        #[test]
        fn bytes_round_trip(bytes: [u8; 32]) {
            prop_assume!(bytes != [0; 32]);
            prop_assert_eq!(Target::from_le_bytes(bytes).unwrap().to_le_bytes(), bytes);
        }
    }
}
