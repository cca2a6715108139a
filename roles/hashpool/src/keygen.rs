//! `hashpool keygen`: the key pair that a pool proves itself with.

use std::io::{self, Write};
use std::path::Path;

use sv2_connection::{Authority, AuthorityPublicKey, AuthoritySecretKey};

use crate::cli::KeygenArgs;
use crate::failure::Failure;
use crate::secret_file;

/// Makes a key pair, writes the secret key and prints the public one.
pub(crate) fn run(args: &KeygenArgs) -> Result<(), Failure> {
    let public = create(&args.out)?;
    let mut out = io::stdout().lock();
    let file = args.out.display();
    writeln!(out, "{public}")
        .and_then(|()| out.flush())
        .map_err(|error| {
            Failure::running(format!(
                "{file} is written, but not its public key: {error}"
            ))
        })
}

/// Makes a key pair and writes its secret key to a new file.
pub(crate) fn create(file: &Path) -> Result<AuthorityPublicKey, Failure> {
    let secret = AuthoritySecretKey::generate();
    let text = secret.reveal();
    let authority = Authority::new(secret).map_err(Failure::running)?;
    secret_file::create(file, &text).map_err(|error| {
        let file = file.display();
        Failure::running(match error.kind() {
            io::ErrorKind::AlreadyExists => {
                format!("{file} exists and is kept: whoever trusts its key would not trust a new one; give another --out")
            }
            _ => format!("cannot write {file}: {error}"),
        })
    })?;
    Ok(authority.public())
}
