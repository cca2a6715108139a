//! What is known as rows of the database, and back.

use std::collections::HashMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{error, warn};

use super::super::Error;
use super::super::clock::Clock;
use crate::board::{Board, Changes, StoredSeries};
use crate::series::{Period, Sample};
use crate::state::{Document, Key, SenderKey, Subject};
use crate::store::{Batch, Connection, DocumentRow, SampleRow, SeriesRow};

/// Series whose samples are read at once.
const READ_AT_ONCE: usize = 500;

impl From<Changes> for Batch {
    fn from(changes: Changes) -> Self {
        let mut batch = Self::default();
        for (SenderKey { role, name }, key, document) in changes.documents {
            let Some(key) = json(&key) else { continue };
            match document.as_ref().map(json) {
                None => batch.gone.push((role, name, key)),
                Some(Some(body)) => batch.documents.push(DocumentRow {
                    role,
                    name,
                    key,
                    body,
                }),
                Some(None) => {}
            }
        }
        for StoredSeries {
            number,
            sender,
            subject,
        } in changes.series
        {
            batch.series.extend(json(&subject).map(|subject| SeriesRow {
                series: number,
                role: sender.role,
                name: sender.name,
                subject,
            }));
        }
        let samples = changes.samples.iter();
        batch.samples = samples
            .filter_map(|(series, sample)| SampleRow::new(*series, sample))
            .collect();
        batch
    }
}

/// What was stored before.
pub(super) async fn restore(store: &mut Connection, clock: Clock) -> Result<Board, Error> {
    let now = clock.now();
    let mut unreadable = 0;
    let mut documents = Vec::new();
    for row in store.documents().await? {
        let sender = SenderKey {
            role: row.role,
            name: row.name,
        };
        match (parse::<Key>(&row.key), parse::<Document>(&row.body)) {
            (Some(key), Some(document)) => documents.push((sender, key, document)),
            _ => unreadable += 1,
        }
    }
    let mut board = Board::restore(now, documents);
    let series = store.series().await?;
    for rows in series.chunks(READ_AT_ONCE) {
        let numbers: Vec<i64> = rows.iter().map(|row| row.series).collect();
        let mut samples = HashMap::<i64, Vec<Sample>>::new();
        for period in [Period::Minute, Period::TenMinutes, Period::Hour] {
            let from_ms = now.unix_ms.saturating_sub(period.held_ms());
            let from_ms = i64::try_from(from_ms).unwrap_or(i64::MAX);
            let rows = store.samples(numbers.clone(), period, from_ms, i64::MAX);
            for row in rows.await? {
                samples.entry(row.series).or_default().extend(row.sample());
            }
        }
        for row in rows {
            let Some(subject) = parse::<Subject>(&row.subject) else {
                unreadable += 1;
                continue;
            };
            let stored = StoredSeries {
                number: row.series,
                sender: SenderKey {
                    role: row.role.clone(),
                    name: row.name.clone(),
                },
                subject,
            };
            let samples = samples.remove(&row.series).unwrap_or_default();
            board.restore_series(now, stored, &samples);
        }
    }
    if unreadable > 0 {
        warn!(
            unreadable,
            "rows of the store of stats are not understood, and left out"
        );
    }
    Ok(board)
}

/// Nothing that is stored has a form that JSON lacks; if it had, the rest would be stored all the same.
fn json(value: &impl Serialize) -> Option<String> {
    serde_json::to_string(value)
        .inspect_err(|error| error!(%error, "something cannot be stored"))
        .ok()
}

fn parse<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}
