//! What serde finds wrong, with serde's own facts kept apart instead of melted into a sentence.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use super::Place;

/// One fault, and the way to it.
#[derive(Debug)]
pub(super) struct Fault {
    /// Boxed to keep every `Result` on the way small.
    pub(super) what: Box<What>,
    /// Innermost key first: each table adds its own on the way out.
    keys: Vec<String>,
    /// Where the value stands; the innermost place that is known.
    pub(super) place: Option<Place>,
    /// The table itself was at fault when serde read it without knowing its type: an internally tagged enum.
    pub(super) buffered: bool,
}

#[derive(Debug)]
pub(super) enum What {
    UnknownKey {
        key: String,
        known: &'static [&'static str],
    },
    MissingKey(&'static str),
    UnknownVariant {
        value: String,
        known: &'static [&'static str],
    },
    WrongType {
        found: String,
        found_string: Option<String>,
        expected: String,
    },
    Other(String),
}

impl Fault {
    pub(super) fn new(what: What) -> Self {
        Self {
            what: Box::new(what),
            keys: Vec::new(),
            place: None,
            buffered: false,
        }
    }

    /// The keys from the root to the table or value at fault.
    pub(super) fn path(&self) -> impl Iterator<Item = &String> {
        self.keys.iter().rev()
    }

    pub(super) fn at(mut self, place: &Place) -> Self {
        self.place.get_or_insert_with(|| place.clone());
        self
    }

    pub(super) fn within(mut self, key: &str) -> Self {
        self.keys.push(key.to_owned());
        self
    }
}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(What::Other(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(What::WrongType {
            found: found.to_string(),
            found_string: match found {
                Unexpected::Str(text) => Some(text.to_owned()),
                _ => None,
            },
            expected: expected.to_string(),
        })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(What::WrongType {
            found: found.to_string(),
            // The type was right.
            found_string: None,
            expected: expected.to_string(),
        })
    }

    fn unknown_variant(value: &str, known: &'static [&'static str]) -> Self {
        Self::new(What::UnknownVariant {
            value: value.to_owned(),
            known,
        })
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::new(What::UnknownKey {
            key: key.to_owned(),
            known,
        })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(What::MissingKey(key))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.what)
    }
}

impl std::error::Error for Fault {}
