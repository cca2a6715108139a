//! Samples for charts: those that are held in memory, and before them those that were stored.

use super::chart::Range;
use super::model::{Subjects, counted};
use super::site::{Kind, Site};
use crate::board::{Board, Of};
use crate::series::{Period, Sample};
use crate::state::SenderKey;

/// Series whose stored samples a chart asks for; no more are counted together than there may be senders.
const MOST_SERIES: usize = 64;

/// Whose work is shown.
#[derive(Debug, Clone)]
pub(super) enum Whose {
    /// All together.
    Total(Kind),
    /// One peer's.
    Peer(SenderKey, Subjects),
    /// One worker's.
    Worker(SenderKey, crate::state::WorkerKey),
}

/// A series: its number, and what of it is in memory.
struct Held {
    number: i64,
    samples: Vec<Sample>,
}

/// Samples of a range, and the time at which it ends.
///
/// # Errors
/// Why they cannot be had.
pub(super) async fn samples(
    site: &Site,
    whose: Whose,
    range: Range,
) -> Result<(u64, Vec<Sample>), String> {
    let period = range.period();
    let copied = site.look(move |board, now| (now.unix_ms, held(board, &whose, period)));
    let (now_ms, held) = copied.await.ok_or("the board cannot be read")?;
    let mut samples = Vec::new();
    for series in held {
        if period == Period::Hour {
            let from_ms = now_ms.saturating_sub(range.ms() + period.ms());
            let first = series.samples.first();
            let to_ms = first.map_or(now_ms, |sample| sample.start_ms);
            let history = site.view.history();
            let number = [series.number];
            let stored = history.samples(&number, period, from_ms, to_ms);
            samples.extend(stored.await?);
        }
        samples.extend(series.samples);
    }
    Ok((now_ms, samples))
}

fn held(board: &Board, whose: &Whose, period: Period) -> Vec<Held> {
    let one = |sender: &SenderKey, of: Of<'_>| {
        Some(Held {
            number: board.series_number(sender, of)?,
            samples: board.recent(sender, of, period),
        })
    };
    match whose {
        Whose::Total(kind) => counted(board, kind.counted())
            .filter_map(|(sender, _)| one(sender, Of::Sender))
            .collect(),
        Whose::Peer(sender, Subjects(subjects)) => subjects
            .iter()
            .take(MOST_SERIES)
            .filter_map(|subject| one(sender, Of::from(subject)))
            .collect(),
        Whose::Worker(sender, key) => one(sender, Of::Worker(key)).into_iter().collect(),
    }
}
