//! The lines of a conversation file:
//!
//! ```text
//! # a comment
//! > what the miner says, byte for byte, but for placeholders
//! < what it must hear next; "$NAME" stands for anything, and is kept for later lines
//! = what happens besides, in one of the sentences that `Event` knows
//! ```

use serde_json::Value;
use translator::UserAgent;

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Say(String),
    Hear(Value),
    Event(Event),
}

/// What happens besides the miner's conversation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// `NAME needs difficulty N`: a line of the translator's table of user agents, from the beginning
    Needs(UserAgent),
    /// `the pool opens a channel for NAME`, and sends work
    Opens(String),
    /// `the pool was told N hashes a second`
    ToldHashrate(f64),
    /// `the pool was told a minimum difficulty of N`
    ToldMinimum(f64),
    /// `the pool hears an update`
    Updates,
    /// `the pool changes the prefix to HEX`, and sends work
    Prefix(Vec<u8>),
    /// `the pool sends work`, or `the pool sends work without version rolling`
    Work { rolling: bool },
    /// `the pool restarts`
    Restarts,
    /// `the miner finds a share`, or `the miner finds a share with bits HEX`
    Finds(Option<u32>),
    /// `the pool takes the share`: checks and acknowledges it
    Takes,
    /// `the miner reconnects`
    Reconnects,
    /// `the difficulty is at least N`: the one that stands for $DIFFICULTY
    AtLeast(f64),
}

/// Reads a file. Each step comes with the number of its line.
pub(crate) fn parse(text: &str) -> Vec<(usize, Step)> {
    let step = |(index, line): (usize, &str)| {
        let number = index + 1;
        let (kind, rest) = line.split_at_checked(1)?;
        let rest = rest.trim();
        let step = match kind {
            "#" => return None,
            ">" => Step::Say(rest.into()),
            "<" => Step::Hear(
                serde_json::from_str(rest).unwrap_or_else(|error| panic!("line {number}: {error}")),
            ),
            "=" => Step::Event(
                Event::parse(rest).unwrap_or_else(|| panic!("line {number}: {rest:?} is no event")),
            ),
            _ => panic!("line {number} begins with none of # > < ="),
        };
        Some((number, step))
    };
    text.lines().enumerate().filter_map(step).collect()
}

impl Event {
    fn parse(text: &str) -> Option<Self> {
        let after = |start: &str| text.strip_prefix(start).map(str::trim);
        let number = |text: &str| text.parse::<f64>().ok();
        Some(match text {
            "the pool hears an update" => Self::Updates,
            "the pool sends work" => Self::Work { rolling: true },
            "the pool sends work without version rolling" => Self::Work { rolling: false },
            "the pool restarts" => Self::Restarts,
            "the pool takes the share" => Self::Takes,
            "the miner finds a share" => Self::Finds(None),
            "the miner reconnects" => Self::Reconnects,
            _ => {
                if let Some(user) = after("the pool opens a channel for ") {
                    Self::Opens(user.into())
                } else if let Some(rest) = after("the pool was told a minimum difficulty of ") {
                    Self::ToldMinimum(number(rest)?)
                } else if let Some(rest) = after("the pool was told ") {
                    Self::ToldHashrate(number(rest.strip_suffix(" hashes a second")?)?)
                } else if let Some(prefix) = after("the pool changes the prefix to ") {
                    Self::Prefix(hex::decode(prefix).ok()?)
                } else if let Some(bits) = after("the miner finds a share with bits ") {
                    Self::Finds(Some(u32::from_str_radix(bits, 16).ok()?))
                } else if let Some(rest) = after("the difficulty is at least ") {
                    Self::AtLeast(number(rest)?)
                } else {
                    let (pattern, minimum) = text.split_once(" needs difficulty ")?;
                    Self::Needs(UserAgent {
                        pattern: pattern.into(),
                        minimum_difficulty: number(minimum)?,
                    })
                }
            }
        })
    }
}
