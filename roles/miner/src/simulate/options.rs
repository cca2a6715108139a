//! What a simulation is told.

use std::{fmt, str::FromStr, time::Duration};

use serde::Serialize;

use crate::Error;

/// How many miners, how fast, and how good.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Miners, each with a connection of its own.
    pub miners: u32,
    /// Shares of each miner.
    pub rate: Rate,
    /// How they follow each other.
    pub arrivals: Arrivals,
    /// What they are.
    pub quality: Quality,
    /// What all chances are drawn from.
    pub seed: u64,
    /// How long to run; until stopped if absent.
    pub time: Option<Duration>,
    /// The most hashes that a share may be expected to need. Shares of a higher difficulty are sent unworked.
    pub most_hashes: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            miners: 1,
            rate: Rate::DEFAULT,
            arrivals: Arrivals::Poisson,
            quality: Quality::default(),
            seed: 0,
            time: None,
            most_hashes: MOST_HASHES,
        }
    }
}

impl Options {
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.miners == 0 || self.miners > MOST_MINERS {
            return Err(Error::config(
                "simulate",
                format!("must be between 1 and {MOST_MINERS}"),
            ));
        }
        if !(self.most_hashes.is_finite() && self.most_hashes >= 0.0) {
            return Err(Error::config("most-hashes", "must not be below zero"));
        }
        Ok(())
    }
}

/// Shares of each miner: `10` or `10/min` for a minute, `2.5/s` for a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    per_second: f64,
}

impl Rate {
    /// Six shares a minute, which is what pools commonly aim at.
    pub const DEFAULT: Self = Self { per_second: 0.1 };

    /// So many shares a second; none where it is not above zero, or beyond what one connection can be asked for.
    pub fn per_second(per_second: f64) -> Option<Self> {
        (per_second > 0.0 && per_second <= MOST_PER_SECOND).then_some(Self { per_second })
    }

    /// The mean time between two shares.
    pub(super) fn interval_seconds(self) -> f64 {
        1.0 / self.per_second
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, seconds) = match text.split_once('/') {
            None | Some((_, "min")) => (text.trim_end_matches("/min"), 60.0),
            Some((number, "s")) => (number, 1.0),
            Some(_) => return Err(RATE_HINT.to_owned()),
        };
        let number: f64 = number.trim().parse().map_err(|_| RATE_HINT.to_owned())?;
        Self::per_second(number / seconds).ok_or_else(|| RATE_HINT.to_owned())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.per_second)
    }
}

/// How the shares of a miner follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// As real shares do: each moment is as likely as the next.
    Poisson,
    /// At equal distances, each miner beginning at a moment of its own.
    Even,
}

impl FromStr for Arrivals {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "poisson" => Ok(Self::Poisson),
            "even" => Ok(Self::Even),
            _ => Err("use poisson or even".to_owned()),
        }
    }
}

/// What a share is made to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Its hash meets the target.
    Good,
    /// Meant to be good; the difficulty is too high to find it, so its hash is any.
    Unworked,
    /// Its hash misses the target.
    Low,
    /// For a job that the server has dropped or never gave.
    Stale,
    /// A good one once more.
    Duplicate,
    /// A `mining.submit` that no server understands.
    Malformed,
}

impl Kind {
    /// All of them, in the order of a report.
    pub const ALL: [Self; 6] = [
        Self::Good,
        Self::Unworked,
        Self::Low,
        Self::Stale,
        Self::Duplicate,
        Self::Malformed,
    ];

    /// Its name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Unworked => "unworked",
            Self::Low => "low",
            Self::Stale => "stale",
            Self::Duplicate => "duplicate",
            Self::Malformed => "malformed",
        }
    }
}

/// Which fractions of the shares are to be bad, and how: `low=0.02,stale=0.05`. The rest are good.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Quality {
    low: f64,
    stale: f64,
    duplicate: f64,
    malformed: f64,
}

impl Quality {
    /// The kind for a random number in 0..1.
    pub(super) fn pick(&self, random: f64) -> Kind {
        let mut end = 0.0;
        for (fraction, kind) in [
            (self.low, Kind::Low),
            (self.stale, Kind::Stale),
            (self.duplicate, Kind::Duplicate),
            (self.malformed, Kind::Malformed),
        ] {
            end += fraction;
            if random < end {
                return kind;
            }
        }
        Kind::Good
    }
}

impl FromStr for Quality {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut quality = Self::default();
        let mut good = None;
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let (name, fraction) = part.split_once('=').ok_or(QUALITY_HINT)?;
            let fraction: f64 = fraction.trim().parse().map_err(|_| QUALITY_HINT)?;
            if !(0.0..=1.0).contains(&fraction) {
                return Err(QUALITY_HINT.to_owned());
            }
            match name.trim() {
                "good" => good = Some(fraction),
                "low" => quality.low = fraction,
                "stale" => quality.stale = fraction,
                "duplicate" => quality.duplicate = fraction,
                "malformed" => quality.malformed = fraction,
                _ => return Err(QUALITY_HINT.to_owned()),
            }
        }
        let bad = quality.low + quality.stale + quality.duplicate + quality.malformed;
        let all = bad + good.unwrap_or(0.0);
        if bad > 1.0 + ROUNDING || (good.is_some() && (all - 1.0).abs() > ROUNDING) {
            return Err("the fractions must add up to 1".to_owned());
        }
        Ok(quality)
    }
}

/// Each is a connection, and a port of this machine.
const MOST_MINERS: u32 = 60_000;
const MOST_PER_SECOND: f64 = 10_000.0;
/// A share of difficulty 0.00024: about a tenth of a second with the SHA extensions.
const MOST_HASHES: f64 = 1_048_576.0;
/// Tenths do not add up exactly.
const ROUNDING: f64 = 1e-9;
const RATE_HINT: &str = "use shares of each miner, such as 6/min or 2.5/s, at most 10000/s";
const QUALITY_HINT: &str =
    "use fractions such as good=0.9,low=0.02,stale=0.05,duplicate=0.02,malformed=0.01";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_by_the_minute_and_by_the_second() {
        let seconds = |text: &str| text.parse::<Rate>().map(Rate::interval_seconds);
        assert_eq!(seconds("6"), Ok(10.0));
        assert_eq!(seconds("6/min"), Ok(10.0));
        assert_eq!(seconds("2.5/s"), Ok(0.4));
        for wrong in ["", "0", "-1", "NaN", "inf", "1/h", "1e9/s", "fast"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn fractions_are_read_and_the_rest_is_good() {
        let quality: Quality = "low=0.1, stale=0.2".parse().unwrap();
        assert_eq!(quality.pick(0.05), Kind::Low);
        assert_eq!(quality.pick(0.15), Kind::Stale);
        assert_eq!(quality.pick(0.35), Kind::Good);
        assert!("good=0.7,low=0.1,stale=0.2".parse::<Quality>().is_ok());
        assert_eq!("".parse(), Ok(Quality::default()));
        let wrong = [
            "low",
            "low=2",
            "low=-0.1",
            "low=NaN",
            "best=1",
            "good=0.5",
            "low=0.6,stale=0.6",
        ];
        for wrong in wrong {
            assert!(wrong.parse::<Quality>().is_err(), "{wrong}");
        }
    }
}
