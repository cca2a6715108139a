//! Reading the books, also while relays write them.

use std::ops::Range;

use serde::Serialize;
use storage::Connection;

use super::meter::Usage;
use super::store::{self, UsageRow};
use super::{Error, StorageConfig};

/// Reads what relays have written.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
}

/// What a client used in a part of the time that was asked for, at all relays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bill {
    /// When the part begins: milliseconds since the Unix epoch. That of its first hour with any use where all is one part.
    pub from_ms: i64,
    /// Who used it.
    pub client: String,
    /// What was used.
    #[serde(flatten)]
    pub usage: Usage,
}

/// A window of time, in hours since the Unix epoch, without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    pub(super) first: i64,
    pub(super) end: i64,
}

/// What is summed up together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// All of the time.
    Whole,
    /// Each day, in UTC.
    Day,
    /// Each hour.
    Hour,
}

impl Hours {
    /// The hours that begin in a range of milliseconds since the Unix epoch.
    #[must_use]
    pub fn of_ms(range: &Range<i64>) -> Self {
        let up = |ms: i64| ms.div_euclid(HOUR_MS) + i64::from(ms.rem_euclid(HOUR_MS) > 0);
        Self {
            first: up(range.start),
            end: up(range.end),
        }
    }
}

impl Step {
    /// Hours of a part.
    pub(super) fn hours(self) -> i64 {
        match self {
            // More than there are.
            Self::Whole => i64::MAX,
            Self::Day => 24,
            Self::Hour => 1,
        }
    }
}

impl Reader {
    /// Opens the books where they are configured; they must be there.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn open(config: &StorageConfig) -> Result<Self, Error> {
        let url = config.place()?.ok_or(Error::Off)?;
        if let storage::Url::Sqlite(path) = &url
            && !std::path::Path::new(path).exists()
        {
            return Err(Error::Empty(url.shown()));
        }
        let mut connection = Connection::open(&url, false).await?;
        if !store::has_tables(&mut connection).await? {
            return Err(Error::Empty(url.shown()));
        }
        Ok(Self { connection })
    }

    /// What each client used, by time and then by name.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn bills(&mut self, window: Hours, step: Step) -> Result<Vec<Bill>, Error> {
        let rows = store::usage(&mut self.connection, window, step).await?;
        let mut bills: Vec<_> = rows.into_iter().map(Bill::from).collect();
        if step == Step::Whole {
            bills.sort_by(|one, other| one.client.cmp(&other.client));
        }
        Ok(bills)
    }
}

impl From<UsageRow> for Bill {
    fn from(row: UsageRow) -> Self {
        Self {
            from_ms: row.first_hour.saturating_mul(HOUR_MS),
            usage: row.usage(),
            client: row.client,
        }
    }
}

const HOUR_MS: i64 = 3_600_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_counts_where_it_begins() {
        let hours = |range| {
            let Hours { first, end } = Hours::of_ms(&range);
            first..end
        };
        assert_eq!(hours(0..HOUR_MS), 0..1);
        assert_eq!(hours(1..HOUR_MS + 1), 1..2);
        assert_eq!(hours(0..i64::MAX).start, 0);
    }
}
