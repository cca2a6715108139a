//! Where a server's authority key comes from.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{Authority, AuthoritySecretKey, KeyError};

/// What a server's configuration says of its authority key: `authority_secret_key` or `authority_secret_key_file`.
#[derive(Debug, Clone, Copy)]
pub struct AuthorityKey<'a> {
    /// The key itself, for the environment.
    pub key: Option<&'a AuthoritySecretKey>,
    /// The file that it stands in, made by `hashpool keygen`.
    pub file: Option<&'a Path>,
}

/// The operator's to mend, all of them.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityKeyError {
    /// A server has to prove itself.
    #[error(
        "no authority key: make one with `hashpool keygen --out FILE` and set authority_secret_key_file to that file"
    )]
    None,
    /// Which of them counts?
    #[error("authority_secret_key: set either this or authority_secret_key_file")]
    Both,
    /// The file cannot be read, or holds no key.
    #[error("authority key file {}: {problem}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason, or what the content is not.
        problem: String,
    },
    /// The configured key is no key.
    #[error("authority_secret_key: {0}")]
    Key(#[from] KeyError),
}

impl AuthorityKey<'_> {
    /// Checks that there is one, without looking into the file.
    pub fn validate(self) -> Result<(), AuthorityKeyError> {
        match (self.key, self.file) {
            (None, None) => Err(AuthorityKeyError::None),
            (Some(_), Some(_)) => Err(AuthorityKeyError::Both),
            _ => Ok(()),
        }
    }

    /// Reads it.
    pub fn load(self) -> Result<Authority, AuthorityKeyError> {
        self.validate()?;
        match (self.key, self.file) {
            (Some(key), _) => Ok(Authority::new(key.clone())?),
            (None, Some(path)) => read(path).map_err(|problem| AuthorityKeyError::File {
                path: path.to_owned(),
                problem,
            }),
            (None, None) => Err(AuthorityKeyError::None),
        }
    }
}

fn read(path: &Path) -> Result<Authority, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let secret: AuthoritySecretKey = text.parse().map_err(|error: KeyError| error.to_string())?;
    Authority::new(secret).map_err(|error| error.to_string())
}
