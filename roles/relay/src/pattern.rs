//! Names with wildcards.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A name in which `*` stands for any characters, or none. Upper and lower case differ, as they do for pools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern that is written so.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether it stands for nothing, and so fits no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it fits the whole name. Takes no longer than the product of both lengths, whatever they are.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut read) = (0, 0);
        // Where the last star was, and how much of the name it stands for so far.
        let mut star = None;
        while read < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at, read));
                    at += 1;
                }
                Some(byte) if *byte == name[read] => {
                    at += 1;
                    read += 1;
                }
                _ => {
                    let Some((star_at, taken)) = star else {
                        return false;
                    };
                    star = Some((star_at, taken + 1));
                    at = star_at + 1;
                    read = taken + 1;
                }
            }
        }
        !pattern.is_empty() && pattern[at..].iter().all(|byte| *byte == b'*')
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, fits) in [
            ("acme", "acme", true),
            ("acme", "acme.rig", false),
            ("acme.*", "acme.rig", true),
            ("acme.*", "acme", false),
            ("acme*", "acme", true),
            ("*", "", true),
            ("", "", false),
            ("*.rig*", "acme.site.rig7", true),
            ("*a*b", "aaab", true),
            ("*a*b", "aaba", false),
            ("Acme", "acme", false),
            ("*ü", "fü", true),
        ] {
            assert_eq!(Pattern::new(pattern).fits(name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn a_hostile_name_costs_no_more_than_its_length() {
        let name = "a".repeat(16 * 1024);
        assert!(!Pattern::new("*a*a*a*a*a*a*a*a*b").fits(&name));
    }
}
