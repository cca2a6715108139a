//! Difficulty and hashrate: checked numbers, and the ways between them and a target.

use std::fmt;

use primitive_types::U512;

use crate::{Error, Target};

/// Hashes that one share of difficulty 1 stands for, by the convention of the field.
pub const HASHES_PER_DIFFICULTY: f64 = 4_294_967_296.0;

/// A Stratum V1 difficulty: `difficulty-1 target / target`. Finite and above zero.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Difficulty(f64);

impl Difficulty {
    /// The difficulty of Bitcoin's first blocks.
    pub const ONE: Self = Self(1.0);

    /// Checks a number from outside.
    pub fn new(value: f64) -> Result<Self, Error> {
        if value.is_finite() && value > 0.0 {
            Ok(Self(value))
        } else {
            Err(Error::InvalidDifficulty(value))
        }
    }

    /// The number itself.
    pub fn value(self) -> f64 {
        self.0
    }

    /// `floor(difficulty-1 target / difficulty)`, exact for the given `f64`; never easier than the difficulty asks.
    pub fn target(self) -> Target {
        let (mantissa, exponent) = decompose(self.0);
        let numerator = Target::DIFFICULTY_1.wide();
        let mantissa = U512::from(mantissa);
        let value = match exponent {
            0.. => (numerator / mantissa) >> exponent.unsigned_abs(),
            // Beyond this the quotient has more than 256 bits whatever the mantissa is.
            ..-160 => U512::MAX,
            _ => (numerator << exponent.unsigned_abs()) / mantissa,
        };
        Target::from_wide(value)
    }

    pub(crate) fn next_up(self) -> Self {
        Self(self.0.next_up())
    }
}

impl fmt::Display for Difficulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            value if value >= 1000.0 => write!(f, "{}", Scaled(value)),
            value if value >= 0.001 => write!(f, "{value:.3}"),
            value => write!(f, "{value:.2e}"),
        }
    }
}

/// Hashes a second. Finite, and zero where nothing mines yet.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Hashrate(f64);

impl Hashrate {
    /// No miner yet.
    pub const ZERO: Self = Self(0.0);

    /// Checks a number from outside, in H/s.
    pub fn new(value: f64) -> Result<Self, Error> {
        if value.is_finite() && value >= 0.0 {
            Ok(Self(value))
        } else {
            Err(Error::InvalidHashrate(value))
        }
    }

    /// H/s.
    pub fn value(self) -> f64 {
        self.0
    }

    /// The difficulty at which this hashrate finds so many shares a minute; none where it is too small to say.
    pub fn difficulty_for(self, shares_per_minute: f64) -> Option<Difficulty> {
        Difficulty::new(self.0 * 60.0 / shares_per_minute / HASHES_PER_DIFFICULTY).ok()
    }

    /// The target at which this hashrate finds so many shares a minute; the easiest where nothing mines.
    pub fn target_for(self, shares_per_minute: f64) -> Target {
        self.difficulty_for(shares_per_minute)
            .map_or(Target::MAX, Difficulty::target)
    }
}

impl fmt::Display for Hashrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}H/s", Scaled(self.0))
    }
}

/// A number with a decimal prefix, three significant digits, and a space before the unit.
struct Scaled(f64);

impl fmt::Display for Scaled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const PREFIXES: [&str; 9] = ["", "k", "M", "G", "T", "P", "E", "Z", "Y"];
        let mut value = self.0;
        let mut prefix = 0;
        // 999.5 would be rounded to "1000".
        while value >= 999.5 && prefix + 1 < PREFIXES.len() {
            value /= 1000.0;
            prefix += 1;
        }
        let digits = match value {
            ..9.995 => 2,
            ..99.95 => 1,
            _ => 0,
        };
        write!(f, "{value:.digits$} {}", PREFIXES[prefix])
    }
}

/// `value = mantissa × 2^exponent`, exactly, for a finite value above zero.
fn decompose(value: f64) -> (u64, i32) {
    const FRACTION_BITS: u32 = 52;
    let bits = value.to_bits();
    let fraction = bits & ((1 << FRACTION_BITS) - 1);
    // Eleven bits always fit.
    let biased = i32::try_from((bits >> FRACTION_BITS) & 0x7ff).unwrap_or(0);
    match biased {
        0 => (fraction, -1074),
        _ => (fraction | 1 << FRACTION_BITS, biased - 1075),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_none_are_refused() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -1.0] {
            assert!(Difficulty::new(bad).is_err());
        }
        for bad in [f64::NAN, f64::INFINITY, -1.0] {
            assert!(Hashrate::new(bad).is_err());
        }
        assert_eq!(Hashrate::new(0.0).unwrap().target_for(6.0), Target::MAX);
    }

    #[test]
    fn targets_of_difficulties_are_exact() {
        assert_eq!(Difficulty::ONE.target(), Target::DIFFICULTY_1);
        let two = Difficulty::new(2.0).unwrap().target();
        assert_eq!(two.wide() * 2, Target::DIFFICULTY_1.wide());
        assert_eq!(Difficulty::new(f64::MAX).unwrap().target(), Target::MIN);
        assert_eq!(Difficulty::new(5e-324).unwrap().target(), Target::MAX);
        assert_eq!(Difficulty::new(1e-12).unwrap().target(), Target::MAX);
    }

    #[test]
    fn hashrates_read_well() {
        let show = |value| Hashrate::new(value).unwrap().to_string();
        assert_eq!(show(0.0), "0.00 H/s");
        assert_eq!(show(999.7), "1.00 kH/s");
        assert_eq!(show(1.234e12), "1.23 TH/s");
        assert_eq!(show(4.2e22), "42.0 ZH/s");
        assert_eq!(show(7e29), "700000 YH/s");
    }
}
