//! The secret that a sender and its service share.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A secret, which is not printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// Takes it from a file, without the space around it.
    ///
    /// # Errors
    /// Why that cannot be, with the file's name.
    pub fn read(file: &Path) -> Result<Self, String> {
        let unusable = |problem: &dyn fmt::Display| format!("{}: {problem}", file.display());
        let text = fs::read_to_string(file).map_err(|error| unusable(&error))?;
        match text.trim() {
            "" => Err(unusable(&"is empty")),
            token => Ok(Self(token.to_owned())),
        }
    }

    /// The secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Token {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}
