//! Bringing tables up to date.

use diesel::{backend::Backend, migration::MigrationSource};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness};

use crate::{Error, Url};

/// Why tables were not brought up to date.
#[derive(Debug)]
pub(crate) enum Failed {
    Newer(String),
    Other(String),
}

impl Failed {
    pub(crate) fn at(self, url: &Url) -> Error {
        let url = url.shown();
        match self {
            Self::Newer(version) => Error::Newer { url, version },
            Self::Other(problem) => Error::Open { url, problem },
        }
    }
}

/// Runs what is missing, unless the tables are of a later version.
pub(crate) fn run<DB: Backend>(
    connection: &mut impl MigrationHarness<DB>,
    known: EmbeddedMigrations,
) -> Result<(), Failed> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| Failed::Other(error.to_string());
    let versions: Vec<_> = MigrationSource::<DB>::migrations(&known)
        .map_err(failed)?
        .iter()
        .map(|migration| migration.name().version().as_owned())
        .collect();
    let applied = connection.applied_migrations().map_err(failed)?;
    if let Some(unknown) = applied.iter().find(|version| !versions.contains(version)) {
        return Err(Failed::Newer(unknown.to_string()));
    }
    connection
        .run_pending_migrations(known)
        .map_err(failed)
        .map(drop)
}
