//! The data folder, which one `up` at a time has.
//!
//! Ledger and stats services take their databases over from whoever had them before, as they must after a crash. So a second
//! `up` that is started by mistake would end the first.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::failure::Failure;

/// Held for as long as the folder is in use; the system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Claim {
    _lock: Flock<File>,
}

/// Makes the folder if it is not there, and keeps other processes from using it.
pub(super) fn claim(folder: &Path) -> Result<Claim, Failure> {
    let shown = folder.display();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| {
            Failure::running(format!(
                "cannot make the data folder {shown}: {error}; give another with --data"
            ))
        })?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(folder.join("up.lock"))
        .map_err(|error| {
            Failure::running(format!("cannot use the data folder {shown}: {error}"))
        })?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Claim { _lock: lock }),
        Err((_, Errno::EWOULDBLOCK)) => Err(Failure::running(format!(
            "another `hashpool up` uses the data folder {shown}; give this one another with --data"
        ))),
        Err((_, error)) => Err(Failure::running(format!(
            "cannot lock the data folder {shown}: {error}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_used_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("data");
        let first = claim(&folder).unwrap();
        let error = claim(&folder).unwrap_err().to_string();
        assert!(error.contains("--data"), "{error}");
        drop(first);
        claim(&folder).unwrap();
    }
}
