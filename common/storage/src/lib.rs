//! Databases as this project wants them: opened, durable, and with their tables up to date.
//!
//! The ledger, the store of a stats service and the books of a relay call it, and bring their own migrations and statements
//! for each of the two. It knows no table.
//!
//! SQLite runs with WAL and `synchronous=FULL`, PostgreSQL with `synchronous_commit=on`: what is committed survives the end of
//! the process and of the machine, as far as the disk keeps what it says it has written.

#![forbid(unsafe_code)]

mod columns;
mod connection;
mod keeper;
mod migrations;
mod postgres;
mod sqlite;
mod url;

pub use columns::{MOST_WORK, from_columns, to_columns};
pub use connection::Connection;
pub use keeper::{Database, Health, Keeper};
pub use postgres::Postgres;
pub use sqlite::Sqlite;
pub use url::Url;

/// Why a database cannot be used; all of it is the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is configured is the place of no database.
    #[error("{0}")]
    Url(&'static str),
    /// It cannot be opened.
    #[error("cannot open {url}: {problem}")]
    Open {
        /// Where it is, without a password.
        url: String,
        /// The database's words.
        problem: String,
    },
    /// Its tables are of a later version.
    #[error(
        "{url} was written by a newer version (its migration {version} is unknown here); use that version or a newer one"
    )]
    Newer {
        /// Where it is, without a password.
        url: String,
        /// The migration that is not known here.
        version: String,
    },
}
