//! Names that a miner authorised, and what shares on a shared channel say of them (extension 0x0002).

use std::ops::Deref;

use stratum_core::extensions_sv2::MAX_USER_IDENTITY_LENGTH;
use work::header::sha256d;

/// A name that authorised.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) name: Box<str>,
    /// What its shares say of it, where many miners share a channel.
    pub(super) of_shares: Option<WorkerName>,
}

/// A worker's name as it travels with a share: at most 32 bytes (extension 0x0002).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WorkerName {
    bytes: [u8; MAX_USER_IDENTITY_LENGTH],
    len: u8,
}

impl WorkerName {
    /// The name of a worker; none if it is empty.
    ///
    /// A longer name than fits becomes an id of 32 characters, always the same for the same name: cut off, it could be
    /// that of another worker.
    pub fn new(worker: &str) -> Option<Self> {
        if worker.is_empty() {
            return None;
        }
        if worker.len() <= MAX_USER_IDENTITY_LENGTH {
            return Some(Self::from_bytes(worker.as_bytes()));
        }
        let mut id = [0; MAX_USER_IDENTITY_LENGTH];
        let hash = sha256d(worker.as_bytes());
        // The buffer has room for two digits of each byte.
        let _ = hex::encode_to_slice(&hash[..MAX_USER_IDENTITY_LENGTH / 2], &mut id);
        Some(Self::from_bytes(&id))
    }

    fn from_bytes(name: &[u8]) -> Self {
        let mut bytes = [0; MAX_USER_IDENTITY_LENGTH];
        bytes[..name.len()].copy_from_slice(name);
        Self {
            bytes,
            #[allow(clippy::cast_possible_truncation)]
            len: name.len() as u8,
        }
    }
}

impl Deref for WorkerName {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl std::fmt::Debug for WorkerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(worker: &str) -> Option<String> {
        WorkerName::new(worker).map(|name| String::from_utf8(name.to_vec()).unwrap())
    }

    #[test]
    fn a_name_that_fits_stays_as_it_is() {
        assert_eq!(name("rig.7").as_deref(), Some("rig.7"));
        assert_eq!(name(""), None);
    }

    #[test]
    fn names_that_are_too_long_stay_apart() {
        let long = "x".repeat(32);
        assert_eq!(name(&long).as_ref(), Some(&long));
        let longer = name(&format!("{long}1")).unwrap();
        assert_eq!(longer.len(), 32);
        assert_ne!(longer, name(&format!("{long}2")).unwrap());
        assert_eq!(longer, name(&format!("{long}1")).unwrap());
    }
}
