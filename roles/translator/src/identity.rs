//! Under which name the pool gets to know a miner: the miner's own, one for all, or one made of both by a pattern.

use std::fmt;

/// SV2 `user_identity` is a `STR0_255`.
const MAX_IDENTITY: usize = 255;

/// The configured pattern, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(Box<[Piece]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Part(Part),
}

/// What a placeholder stands for, of a user name `account.worker`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// All of it.
    User,
    /// Up to the first dot.
    Account,
    /// After the first dot.
    Worker,
}

/// What is wrong with a pattern; the operator's to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A name in braces that stands for nothing.
    #[error("{{{0}}} is no placeholder; there are {{user}}, {{account}} and {{worker}}")]
    UnknownPlaceholder(String),
    /// A brace without its other half.
    #[error("a brace that is not closed or not opened; literal ones cannot be used")]
    Unbalanced,
    /// More than a pool takes, whatever the miner's name is.
    #[error("longer than {MAX_IDENTITY} bytes")]
    TooLong,
}

impl Default for Identity {
    fn default() -> Self {
        Self([Piece::Part(Part::User)].into())
    }
}

impl Identity {
    /// Reads a pattern; an empty one is `{user}`.
    ///
    /// # Errors
    /// [`Problem`]
    pub fn parse(pattern: &str) -> Result<Self, Problem> {
        let mut pieces = Vec::new();
        let mut rest = pattern;
        while !rest.is_empty() {
            let (text, after) = rest.split_at(rest.find(['{', '}']).unwrap_or(rest.len()));
            if !text.is_empty() {
                pieces.push(Piece::Text(text.into()));
                rest = after;
                continue;
            }
            let inner = rest.strip_prefix('{').ok_or(Problem::Unbalanced)?;
            let (name, after) = inner.split_once('}').ok_or(Problem::Unbalanced)?;
            let part = Part::ALL
                .into_iter()
                .find(|part| part.name() == name)
                .ok_or_else(|| Problem::UnknownPlaceholder(name.into()))?;
            pieces.push(Piece::Part(part));
            rest = after;
        }
        let literal: usize = pieces.iter().map(Piece::literal_size).sum();
        if literal > MAX_IDENTITY {
            return Err(Problem::TooLong);
        }
        if pieces.is_empty() {
            return Ok(Self::default());
        }
        Ok(Self(pieces.into()))
    }

    /// The identity of a miner with this user name; none if it is longer than pools take.
    pub fn of(&self, user: &str) -> Option<Box<str>> {
        let mut identity = String::new();
        for piece in &self.0 {
            identity.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Part(part) => part.of(user),
            });
        }
        (identity.len() <= MAX_IDENTITY).then(|| identity.into())
    }

    /// The identity that is the same for all, if it is.
    pub fn fixed(&self) -> Option<&str> {
        match &*self.0 {
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(text),
            Piece::Part(part) => write!(f, "{{{}}}", part.name()),
        })
    }
}

impl Piece {
    fn literal_size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Part(_) => 0,
        }
    }
}

impl Part {
    const ALL: [Self; 3] = [Self::User, Self::Account, Self::Worker];

    fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Account => "account",
            Self::Worker => "worker",
        }
    }

    /// A part that is missing or empty is the whole name: who only says `rig7` means a worker in one pattern and an
    /// account in another.
    fn of(self, user: &str) -> &str {
        let (account, worker) = user.split_once('.').unwrap_or(("", ""));
        let part = match self {
            Self::User => user,
            Self::Account => account,
            Self::Worker => worker,
        };
        if part.is_empty() { user } else { part }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity(pattern: &str, user: &str) -> String {
        let identity = Identity::parse(pattern).unwrap();
        identity.of(user).unwrap().into()
    }

    #[test]
    fn a_pattern_makes_a_name_of_the_miners_own() {
        for (pattern, user, expected) in [
            ("", "alice.rig7", "alice.rig7"),
            ("{user}", "alice.rig7", "alice.rig7"),
            ("farm1", "alice.rig7", "farm1"),
            ("farm1.{worker}", "alice.rig7", "farm1.rig7"),
            ("farm1.{worker}", "rig7", "farm1.rig7"),
            ("farm1.{user}", "alice.rig7", "farm1.alice.rig7"),
            ("{account}", "alice.rig7", "alice"),
            ("{account}", "alice", "alice"),
            (
                "{account}.{worker}",
                "alice.rig7.board2",
                "alice.rig7.board2",
            ),
            ("{account}-hall3.{worker}", "alice.rig7", "alice-hall3.rig7"),
            ("farm1.{worker}", "alice.", "farm1.alice."),
            ("{account}", ".rig7", ".rig7"),
            ("größe.{worker}", "a.ü", "größe.ü"),
        ] {
            assert_eq!(identity(pattern, user), expected, "{pattern:?} {user:?}");
        }
    }

    #[test]
    fn a_pattern_that_makes_no_sense_says_why() {
        for (pattern, placeholder) in [
            ("{usr}", "usr"),
            ("farm.{Worker}", "Worker"),
            ("{}", ""),
            ("{ user }", " user "),
            ("{{user}}", "{user"),
        ] {
            let problem = Identity::parse(pattern).unwrap_err();
            assert_eq!(problem, Problem::UnknownPlaceholder(placeholder.into()));
            assert!(problem.to_string().contains(&format!("{{{placeholder}}}")));
        }
        for pattern in ["{", "}", "{user", "user}", "{user}}", "a{"] {
            assert_eq!(
                Identity::parse(pattern),
                Err(Problem::Unbalanced),
                "{pattern}"
            );
        }
        assert_eq!(Identity::parse(&"x".repeat(256)), Err(Problem::TooLong));
        assert!(Identity::parse(&"x".repeat(255)).is_ok());
    }

    #[test]
    fn only_a_pattern_without_placeholders_is_the_same_for_all() {
        assert_eq!(Identity::parse("farm1").unwrap().fixed(), Some("farm1"));
        for pattern in ["", "{user}", "farm1.{worker}"] {
            assert_eq!(Identity::parse(pattern).unwrap().fixed(), None);
        }
    }

    proptest! {
        #[test]
        fn no_pattern_and_no_name_make_an_identity_that_a_pool_cannot_take(
            pattern in r"([a-z.]{0,40}|\{(user|account|worker|x)\}|[{}]|.){0,8}", user in ".{1,127}",
        ) {
            let Ok(identity) = Identity::parse(&pattern) else { return Ok(()) };
            if let Some(made) = identity.of(&user) {
                prop_assert!(!made.is_empty() && made.len() <= MAX_IDENTITY);
                prop_assert!(identity.fixed().is_none_or(|fixed| fixed == &*made));
            } else {
                prop_assert!(pattern.len() + 8 * user.len() > MAX_IDENTITY);
            }
        }

        #[test]
        fn a_pattern_reads_as_it_is_written(pattern in r"([a-z.-]|\{(user|account|worker)\}){1,8}") {
            prop_assert_eq!(Identity::parse(&pattern).unwrap().to_string(), pattern);
        }

        #[test]
        fn different_workers_never_become_one(one in "[a-z.]{1,20}", other in "[a-z.]{1,20}") {
            let identity = Identity::parse("farm1.{user}").unwrap();
            prop_assert_eq!(identity.of(&one) == identity.of(&other), one == other);
        }
    }
}
