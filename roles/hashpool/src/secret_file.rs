//! Files that hold secrets: readable by their owner alone, and never written over.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes `secret` and a newline to a new file with mode 0600.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if there is such a file; it is not touched.
pub(crate) fn create(path: &Path, secret: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let written = writeln!(file, "{secret}").and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a key would be refused at every later start, and never written over.
        let _ = fs::remove_file(path);
    }
    written
}
