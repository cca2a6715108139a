//! What a stats service keeps: documents of what it knows, and samples of hashrates, in SQLite or PostgreSQL.

mod postgres;
mod sqlite;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use diesel::{
    QueryableByName,
    result::Error as DatabaseError,
    sql_types::{BigInt, Double, Text},
};
use storage::{Postgres, Sqlite, Url};

use crate::series::{Period, Sample};

/// An open database.
pub(crate) enum Connection {
    Sqlite(Sqlite),
    Postgres(Box<Postgres>),
}

/// One transaction. Rows replace those of the same key, so that to write it twice is to write it once.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Batch {
    pub documents: Vec<DocumentRow>,
    /// Keys of documents that are to go.
    pub gone: Vec<(String, String, String)>,
    pub series: Vec<SeriesRow>,
    pub samples: Vec<SampleRow>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.documents.is_empty()
            && self.gone.is_empty()
            && self.series.is_empty()
            && self.samples.is_empty()
    }
}

/// The answer to a write that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Committed {
    Yes,
    /// A later start of a service writes there.
    TakenOver,
}

/// Old samples of some series, and series that are to go with all of theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Old {
    pub series: Vec<i64>,
    /// A period's length, and the time before which its samples are old.
    pub before_ms: Vec<(i64, i64)>,
    pub gone: Vec<i64>,
}

impl Connection {
    /// Opens a database; `create` makes the file where it is not.
    pub(crate) async fn open(url: &Url, create: bool) -> Result<Self, storage::Error> {
        Ok(match url {
            Url::Sqlite(path) => Self::Sqlite(Sqlite::open(path, create).await?),
            Url::Postgres { text, ca_file } => {
                Self::Postgres(Box::new(Postgres::open(text, ca_file.as_deref()).await?))
            }
        })
    }

    /// Brings the tables up to date; refuses those of a later version.
    pub(crate) async fn migrate(self) -> Result<Self, storage::Error> {
        Ok(match self {
            Self::Sqlite(database) => Self::Sqlite(database.migrate(sqlite::MIGRATIONS).await?),
            Self::Postgres(database) => {
                Self::Postgres(Box::new(database.migrate(postgres::MIGRATIONS).await?))
            }
        })
    }

    /// Counts a start of the service; gives its number, with which it writes.
    pub(crate) async fn count_start(&mut self) -> Result<i64, DatabaseError> {
        match self {
            Self::Sqlite(database) => sqlite::count_start(database).await,
            Self::Postgres(database) => postgres::count_start(database).await,
        }
    }

    /// All documents.
    pub(crate) async fn documents(&mut self) -> Result<Vec<DocumentRow>, DatabaseError> {
        match self {
            Self::Sqlite(database) => sqlite::documents(database).await,
            Self::Postgres(database) => postgres::documents(database).await,
        }
    }

    /// All series, by their numbers.
    pub(crate) async fn series(&mut self) -> Result<Vec<SeriesRow>, DatabaseError> {
        match self {
            Self::Sqlite(database) => sqlite::series(database).await,
            Self::Postgres(database) => postgres::series(database).await,
        }
    }

    /// Samples of some series and one period, of a time whose end is not included, in the order of both.
    pub(crate) async fn samples(
        &mut self,
        series: Vec<i64>,
        period: Period,
        from_ms: i64,
        to_ms: i64,
    ) -> Result<Vec<SampleRow>, DatabaseError> {
        let seconds = seconds(period);
        match self {
            Self::Sqlite(database) => {
                sqlite::samples(database, series, seconds, from_ms, to_ms).await
            }
            Self::Postgres(database) => {
                postgres::samples(database, series, seconds, from_ms, to_ms).await
            }
        }
    }

    /// Writes a batch. It begins with the start's row, which keeps others out and shows that there can be writes; an empty
    /// one does no more than that.
    pub(crate) async fn commit(
        &mut self,
        boot: i64,
        batch: Arc<Batch>,
    ) -> Result<Committed, DatabaseError> {
        match self {
            Self::Sqlite(database) => sqlite::commit(database, boot, batch).await,
            Self::Postgres(database) => postgres::commit(database, boot, &batch).await,
        }
    }

    /// Deletes old samples and series.
    pub(crate) async fn clean(
        &mut self,
        boot: i64,
        old: Arc<Old>,
    ) -> Result<Committed, DatabaseError> {
        match self {
            Self::Sqlite(database) => sqlite::clean(database, boot, old).await,
            Self::Postgres(database) => postgres::clean(database, boot, &old).await,
        }
    }
}

impl storage::Database for Connection {
    async fn reopen(url: &Url) -> Result<Self, storage::Error> {
        Self::open(url, false).await
    }
}

/// A piece of what is known of a sender. `key` and `body` are JSON.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub(crate) struct DocumentRow {
    #[diesel(sql_type = Text)]
    pub role: String,
    #[diesel(sql_type = Text)]
    pub name: String,
    #[diesel(sql_type = Text)]
    pub key: String,
    #[diesel(sql_type = Text)]
    pub body: String,
}

/// Whose work is sampled. `subject` is JSON.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub(crate) struct SeriesRow {
    #[diesel(sql_type = BigInt)]
    pub series: i64,
    #[diesel(sql_type = Text)]
    pub role: String,
    #[diesel(sql_type = Text)]
    pub name: String,
    #[diesel(sql_type = Text)]
    pub subject: String,
}

/// Work of a series in one period.
#[derive(Debug, Clone, Copy, PartialEq, QueryableByName)]
pub(crate) struct SampleRow {
    #[diesel(sql_type = BigInt)]
    pub series: i64,
    #[diesel(sql_type = BigInt)]
    pub seconds: i64,
    #[diesel(sql_type = BigInt)]
    pub start_ms: i64,
    #[diesel(sql_type = Double)]
    pub hashes: f64,
}

impl SampleRow {
    /// What no database takes is left out.
    pub(crate) fn new(series: i64, sample: &Sample) -> Option<Self> {
        sample.hashes.is_finite().then_some(Self {
            series,
            seconds: seconds(sample.period),
            start_ms: i64::try_from(sample.start_ms).ok()?,
            hashes: sample.hashes,
        })
    }

    /// What was not written here is left out.
    pub(crate) fn sample(&self) -> Option<Sample> {
        let mut periods = Period::ALL.into_iter();
        Some(Sample {
            period: periods.find(|period| seconds(*period) == self.seconds)?,
            start_ms: u64::try_from(self.start_ms).ok()?,
            hashes: self.hashes.max(0.0),
        })
    }
}

/// A period's length as the tables have it.
pub(crate) fn seconds(period: Period) -> i64 {
    i64::try_from(period.ms() / 1000).unwrap_or(i64::MAX)
}

/// A number that a statement gives back.
#[derive(Debug, QueryableByName)]
struct Value {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

/// Statements that both databases understand. Parameters are numbered in the order in which they first appear, which is
/// how SQLite counts them.
mod sql {
    pub(super) const COUNT_START: &str = "INSERT INTO starts (one, boot) VALUES (1, 1) \
         ON CONFLICT (one) DO UPDATE SET boot = starts.boot + 1 RETURNING boot AS value";

    /// Changes no row if this is not the last start.
    pub(super) const HOLD: &str = "UPDATE starts SET boot = boot WHERE boot = $1";

    pub(super) const DOCUMENTS: &str = "SELECT role, name, key, body FROM documents";

    pub(super) const SERIES: &str =
        "SELECT series, role, name, subject FROM series ORDER BY series";

    pub(super) const PUT_DOCUMENTS: &str =
        " ON CONFLICT (role, name, key) DO UPDATE SET body = excluded.body";

    pub(super) const PUT_SERIES: &str = " ON CONFLICT (series) DO NOTHING";

    pub(super) const PUT_SAMPLES: &str =
        " ON CONFLICT (series, seconds, start_ms) DO UPDATE SET hashes = excluded.hashes";
}
