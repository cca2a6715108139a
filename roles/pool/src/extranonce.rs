//! Extranonce prefixes that are never given out twice.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::Error;

/// Bytes of a prefix.
pub(crate) const PREFIX_SIZE: usize = 8;

/// Bytes that the miner rolls behind the prefix, unless it asks for more.
pub(crate) const ROLLABLE_SIZE: usize = 8;

/// The largest extranonce that SV2 allows (`B0_32`).
pub(crate) const LARGEST_EXTRANONCE: usize = 32;

/// What makes the coinbases of one channel different from those of all others: `server_id`, the process's boot number,
/// and a number within the process. No share of one channel is one of another, whichever process it was found for.
pub(crate) type Prefix = [u8; PREFIX_SIZE];

/// Gives out prefixes.
#[derive(Debug)]
pub(crate) struct Prefixes {
    server_id: u16,
    boot: u16,
    next: AtomicU32,
}

impl Prefixes {
    /// Counts this start of the process in `data_dir`, on disk before the first prefix is used.
    pub(crate) fn open(data_dir: &Path, server_id: u16) -> Result<Self, Error> {
        let path = data_dir.join("boot");
        let boot = next_boot(data_dir, &path).map_err(|source| Error::DataDir { path, source })?;
        Ok(Self::new(server_id, boot))
    }

    pub(crate) fn new(server_id: u16, boot: u16) -> Self {
        Self {
            server_id,
            boot,
            next: AtomicU32::new(0),
        }
    }

    /// A prefix that no channel has had. After 2^32 of them the first come again, long after their tip.
    pub(crate) fn allocate(&self) -> Prefix {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut prefix = [0; PREFIX_SIZE];
        prefix[..2].copy_from_slice(&self.server_id.to_be_bytes());
        prefix[2..4].copy_from_slice(&self.boot.to_be_bytes());
        prefix[4..].copy_from_slice(&number.to_be_bytes());
        prefix
    }
}

fn next_boot(data_dir: &Path, path: &Path) -> io::Result<u16> {
    fs::create_dir_all(data_dir)?;
    let last = match fs::read_to_string(path) {
        Ok(text) => text.trim().parse::<u16>().map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "is not the boot counter that was written here; remove it if no pool with this server_id has run in the \
                 last hours",
            )
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let boot = last.wrapping_add(1);
    let fresh = path.with_extension("new");
    let mut file = fs::File::create(&fresh)?;
    writeln!(file, "{boot}")?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    fs::File::open(data_dir)?.sync_all()?;
    Ok(boot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_gives_out_other_prefixes() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("pool");
        let first = Prefixes::open(&data, 7).unwrap();
        let (a, b) = (first.allocate(), first.allocate());
        let second = Prefixes::open(&data, 7).unwrap();
        let c = second.allocate();
        assert!(a != b && a != c && b != c);
        assert_eq!(a[..2], [0, 7]);
    }

    #[test]
    fn a_damaged_boot_counter_is_an_error_and_not_a_repetition() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("boot"), "x").unwrap();
        let error = Prefixes::open(dir.path(), 0).unwrap_err().to_string();
        assert!(error.contains("boot"), "{error}");
    }
}
