//! The development keys: made at the first run, kept in the data folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use stratum_core::bitcoin::secp256k1::Secp256k1;
use stratum_core::bitcoin::{NetworkKind, PrivateKey};
use sv2_connection::{Authority, AuthorityPublicKey, AuthoritySecretKey};

use crate::failure::Failure;
use crate::{keygen, secret_file};

/// What the stack proves itself with, and what its blocks pay.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) authority_file: PathBuf,
    pub(super) authority: AuthorityPublicKey,
    pub(super) payout_file: PathBuf,
    /// An output descriptor, which fits every network.
    pub(super) payout: String,
}

impl Keys {
    /// Reads the keys in `folder`, or makes them.
    pub(super) fn in_folder(folder: &Path) -> Result<Self, Failure> {
        let authority_file = folder.join("authority.key");
        let payout_file = folder.join("payout.key");
        Ok(Self {
            authority: authority(&authority_file)?,
            payout: payout(&payout_file)?,
            authority_file,
            payout_file,
        })
    }
}

fn authority(file: &Path) -> Result<AuthorityPublicKey, Failure> {
    let Some(text) = read(file)? else {
        return keygen::create(file);
    };
    let secret: AuthoritySecretKey = text.parse().map_err(|error| not_a_key(file, error))?;
    let authority = Authority::new(secret).map_err(|error| not_a_key(file, error))?;
    Ok(authority.public())
}

fn payout(file: &Path) -> Result<String, Failure> {
    let key = if let Some(text) = read(file)? {
        PrivateKey::from_wif(&text).map_err(|error| not_a_key(file, error))?
    } else {
        // The form of test networks: wallets on mainnet refuse it, and nobody keeps money there by mistake.
        let key = PrivateKey::generate(NetworkKind::Test);
        secret_file::create(file, &key.to_wif()).map_err(|error| cannot(file, &error))?;
        key
    };
    Ok(format!("wpkh({})", key.public_key(&Secp256k1::new())))
}

fn read(file: &Path) -> Result<Option<String>, Failure> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot(file, &error)),
    }
}

fn cannot(file: &Path, error: &io::Error) -> Failure {
    let file = file.display();
    Failure::running(format!("cannot use the key file {file}: {error}"))
}

fn not_a_key(file: &Path, error: impl std::fmt::Display) -> Failure {
    let file = file.display();
    Failure::running(format!(
        "{file} holds no key ({error}); move it away and a new one is made"
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_second_run_has_the_keys_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let first = Keys::in_folder(folder.path()).unwrap();
        let second = Keys::in_folder(folder.path()).unwrap();
        assert_eq!(first.authority, second.authority);
        assert_eq!(first.payout, second.payout);
        for file in [first.authority_file, first.payout_file] {
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        }
    }

    #[test]
    fn a_file_that_holds_no_key_is_named_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("payout.key");
        fs::write(&file, "my notes").unwrap();
        let error = Keys::in_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains(file.to_str().unwrap()), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "my notes");
    }
}
