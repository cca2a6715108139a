//! What is wrong with a configuration, in the operator's words.

use std::fmt;
use std::io;

use super::fault::{Fault, What};
use super::is_secret;

/// Why a configuration cannot be used. All of them are the operator's to mend, and say where.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: cannot be read: {source}")]
    Read {
        /// The file.
        file: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{place}: {problem}")]
    Syntax {
        /// File and line.
        place: Place,
        /// What the parser says.
        problem: String,
    },
    /// A variable of the environment that cannot be meant.
    #[error("{name}: {problem}")]
    Variable {
        /// The variable.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An argument of the command line that cannot be meant.
    #[error("--set {key}: {problem}")]
    Argument {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A key that the role does not know.
    #[error("{place}: unknown key \"{key}\"; {advice}")]
    UnknownKey {
        /// Where it stands.
        place: Place,
        /// The key, with dots.
        key: String,
        /// The nearest known key, or all of them.
        advice: String,
    },
    /// A key that has no default and is not given.
    #[error("{place}: the key \"{key}\" is missing")]
    MissingKey {
        /// Where it should stand.
        place: Place,
        /// The key, with dots.
        key: String,
    },
    /// A value of the wrong type, or one that its key does not take.
    #[error("{place}: \"{key}\": {problem}")]
    Value {
        /// Where it stands.
        place: Place,
        /// The key, with dots.
        key: String,
        /// What was expected.
        problem: String,
    },
}

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nowhere in particular: the defaults, or the configuration as a whole.
    Defaults,
    /// A file as a whole.
    File(String),
    /// A line of a file.
    Line(String, usize),
    /// A variable of the environment.
    Variable(String),
    /// A key on the command line.
    Argument(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Defaults => f.write_str("configuration"),
            Self::File(file) => f.write_str(file),
            Self::Line(file, line) => write!(f, "{file}:{line}"),
            Self::Variable(name) => f.write_str(name),
            Self::Argument(key) => write!(f, "--set {key}"),
        }
    }
}

/// Puts a fault that serde found into words.
pub(super) fn explain(fault: Fault, file: Option<&str>) -> ConfigError {
    let path: Vec<String> = fault.path().cloned().collect();
    let in_table = |key: &str| {
        let keys = path.iter().map(String::as_str).chain([key]);
        keys.collect::<Vec<_>>().join(".")
    };
    let place = match (fault.place.clone(), file) {
        (None | Some(Place::Defaults), Some(file)) => Place::File(file.to_owned()),
        (place, _) => place.unwrap_or(Place::Defaults),
    };
    let key = path.join(".");
    match *fault.what {
        What::UnknownKey { key, known } => ConfigError::UnknownKey {
            advice: advice(&place, &key, known, &in_table),
            key: in_table(&key),
            place,
        },
        What::MissingKey(key) => ConfigError::MissingKey {
            place,
            key: in_table(key),
        },
        What::UnknownVariant { value, known } => ConfigError::Value {
            problem: match nearest(&value, known) {
                Some(near) => format!("unknown value \"{value}\"; did you mean \"{near}\"?"),
                None => format!(
                    "unknown value \"{value}\"; use one of: {}",
                    known.join(", ")
                ),
            },
            place,
            key,
        },
        What::WrongType {
            found, expected, ..
        } => ConfigError::Value {
            problem: if is_secret(&key) {
                format!("expected {}", in_words(&expected))
            } else {
                format!("expected {}, found {found}", in_words(&expected))
            },
            place,
            key,
        },
        What::Other(problem) => ConfigError::Value {
            place,
            key,
            problem,
        },
    }
}

fn advice(place: &Place, key: &str, known: &[&str], in_table: &impl Fn(&str) -> String) -> String {
    match nearest(key, known) {
        Some(near) => match place {
            Place::Variable(name) => {
                let table = name.len() - key.len().min(name.len());
                let near = format!("{}{}", &name[..table], near.to_uppercase());
                format!("did you mean {near}?")
            }
            _ => format!("did you mean \"{}\"?", in_table(near)),
        },
        None if known.is_empty() => "no keys are known here".into(),
        None => format!("the keys here are {}", known.join(", ")),
    }
}

/// The known word that `word` most likely stands for, if one is near enough.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |known: &str| strsim::damerau_levenshtein(word, known);
    let near = known.iter().min_by_key(|known| distance(known))?;
    let likely = distance(near) <= (near.len() / 3).max(2).min(near.len().saturating_sub(1));
    let part = known
        .iter()
        .find(|known| word.len() >= 4 && (known.contains(word) || word.contains(**known)));
    if likely { Some(near) } else { part.copied() }
}

/// Serde names Rust's types; operators do not know them.
fn in_words(expected: &str) -> String {
    let whole = |low: String, high: String| format!("a whole number from {low} to {high}");
    match expected {
        "u8" => whole(u8::MIN.to_string(), u8::MAX.to_string()),
        "u16" => whole(u16::MIN.to_string(), u16::MAX.to_string()),
        "u32" => whole(u32::MIN.to_string(), u32::MAX.to_string()),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".into(),
        "u64" | "usize" => "a whole number, 0 or more".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list, such as [\"a\", \"b\"]".into(),
        _ if expected.starts_with("struct ") || expected.starts_with("internally tagged enum ") => {
            "a table".into()
        }
        _ => expected.into(),
    }
}
