//! The id of a request: kept as it was written, so that it comes back as it was.

use crate::json::Value;

/// A request's id. Numbers, strings and null are returned in an answer exactly as the peer wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id<'a>(Option<&'a str>);

impl<'a> Id<'a> {
    /// The peer gave no id: it expects no answer.
    pub const ABSENT: Self = Self(None);
    /// The id of what is not a request, and of an answer to what could not be read.
    pub const NULL: Self = Self(Some("null"));

    /// The id whose JSON text is `raw`; `None` if `value`, which it reads as, may not be an id.
    pub(crate) fn from_json(raw: &'a str, value: Value<'a>) -> Option<Self> {
        matches!(value, Value::Null | Value::Number(_) | Value::Text(_)).then_some(Self(Some(raw)))
    }

    /// An id that was kept from [`Id::json`], to answer later.
    pub fn from_raw(json: &'a str) -> Self {
        Self(Some(json))
    }

    /// Whether the peer gave no id at all.
    pub fn is_absent(self) -> bool {
        self.0.is_none()
    }

    /// The id's JSON text; `null` if it was absent.
    pub fn json(self) -> &'a str {
        self.0.unwrap_or("null")
    }

    /// The id as a number, which is what a client of ours sends.
    pub fn number(self) -> Option<u64> {
        self.0?.parse().ok()
    }
}
