//! What miners of one kind need, told by what they call themselves in `mining.subscribe`: marketplaces refuse pools whose
//! difficulty is too low for them.

use serde::{Deserialize, Serialize};
use work::Difficulty;

/// A line of the configuration's table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserAgent {
    /// Part of the name, in upper or lower case.
    pub pattern: String,
    /// The SV1 difficulty below which these miners are not to work.
    pub minimum_difficulty: f64,
}

/// The table, checked.
#[derive(Debug, Clone, Default)]
pub struct UserAgents(Box<[(Box<str>, Difficulty)]>);

impl UserAgents {
    /// The table without the lines that are wrong.
    pub fn new(table: &[UserAgent]) -> Self {
        let line = |line: &UserAgent| {
            let minimum = Difficulty::new(line.minimum_difficulty).ok()?;
            Some((line.pattern.to_ascii_lowercase().into(), minimum))
        };
        Self(table.iter().filter_map(line).collect())
    }

    /// The hardest minimum of all lines that fit the name.
    pub(crate) fn minimum(&self, name: &str) -> Option<Difficulty> {
        if self.0.is_empty() {
            return None;
        }
        let name = name.to_ascii_lowercase();
        self.0
            .iter()
            .filter(|(pattern, _)| name.contains(&**pattern))
            .map(|(_, minimum)| *minimum)
            .reduce(|one, other| if one > other { one } else { other })
    }
}

impl UserAgent {
    /// What is wrong with the line.
    pub(crate) fn problem(&self) -> Option<String> {
        if self.pattern.trim().is_empty() {
            return Some(
                "pattern is empty, so it would fit every miner; see minimum_difficulty".into(),
            );
        }
        Difficulty::new(self.minimum_difficulty)
            .err()
            .map(|error| format!("{:?}: {error}", self.pattern))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(pattern: &str, minimum_difficulty: f64) -> UserAgent {
        UserAgent {
            pattern: pattern.into(),
            minimum_difficulty,
        }
    }

    #[test]
    fn the_hardest_line_that_fits_counts() {
        let agents = UserAgents::new(&[
            line("NiceHash/", 500_000.0),
            line("miner", 1.0),
            line("S9", 2.0),
        ]);
        let minimum = |name: &str| agents.minimum(name).map(Difficulty::value);
        assert_eq!(minimum("NiceHash/1.0.0"), Some(500_000.0));
        assert_eq!(minimum("nicehash/2"), Some(500_000.0));
        assert_eq!(minimum("cgMiner for s9"), Some(2.0));
        assert_eq!(minimum("NiceHash"), None);
        assert_eq!(minimum(""), None);
        assert_eq!(UserAgents::default().minimum("NiceHash/1"), None);
    }

    #[test]
    fn a_line_that_makes_no_sense_is_told() {
        assert_eq!(line("x", 1.0).problem(), None);
        for wrong in [
            line("", 1.0),
            line(" ", 1.0),
            line("x", 0.0),
            line("x", f64::NAN),
        ] {
            assert!(wrong.problem().is_some(), "{wrong:?}");
        }
    }
}
