//! What `up` prints: text for people, made of plain figures.

use std::fmt;
use std::time::Duration;

use work::Hashrate;

/// How things are, gathered from the roles.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Figures {
    /// What all miners hash per second.
    pub(super) hashrate: f64,
    /// SV1 difficulty that the CPU miner works on.
    pub(super) difficulty: Option<f64>,
    /// Miners connected to the translator.
    pub(super) miners: usize,
    pub(super) accepted: u64,
    pub(super) rejected: u64,
    pub(super) lost: u64,
    pub(super) blocks: Blocks,
    /// Height of the chain's tip.
    pub(super) height: Option<u32>,
    /// What keeps miners from working now.
    pub(super) fault: Option<String>,
}

/// What became of the blocks that were found here.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Blocks {
    pub(super) accepted: u64,
    pub(super) failed: u64,
    pub(super) last: Option<Block>,
}

/// A block that was found here.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Block {
    pub(super) height: Option<u32>,
    pub(super) hash: String,
    /// Who found it.
    pub(super) identity: String,
    /// What the chain said.
    pub(super) outcome: String,
}

/// Time since the start, as `1:02:03`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(pub(super) Duration);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{hours}:{minutes:02}:{seconds:02}")
    }
}

/// What runs, where, and what to know of it.
pub(super) struct Place {
    pub(super) what: &'static str,
    pub(super) at: String,
    pub(super) note: String,
}

/// Everything there is to know at the start.
pub(super) struct Places {
    pub(super) rows: Vec<Place>,
    /// Where a miner connects, as it is written in a miner's settings.
    pub(super) miner_url: String,
}

pub(super) fn where_it_listens(places: &Places) -> String {
    let width = |of: fn(&Place) -> usize| places.rows.iter().map(of).max().unwrap_or_default();
    let what = width(|row| row.what.chars().count());
    let at = width(|row| row.at.chars().count());
    let mut text = String::from("\n");
    for row in &places.rows {
        let line = format!("  {:what$}  {:at$}  {}", row.what, row.at, row.note);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text + &format!(
        "\n  point a miner at {}\n  Ctrl-C stops\n\n",
        places.miner_url
    )
}

pub(super) fn status(now: &Figures, clock: Clock) -> String {
    let height = now
        .height
        .map_or("-".to_owned(), |height| height.to_string());
    let difficulty = now.difficulty.map_or("-".to_owned(), significant);
    let mut line = format!(
        "{clock}  {}  difficulty {difficulty}  miners {}  shares {} accepted, {} rejected, {} lost  blocks {}  height {height}",
        hashrate(now.hashrate),
        now.miners,
        now.accepted,
        now.rejected,
        now.lost,
        now.blocks.accepted,
    );
    if let Some(fault) = &now.fault {
        line.push_str("  ! ");
        line.push_str(fault);
    }
    line.push('\n');
    line
}

/// A line for each block found since `before`, or for all of them if they came together.
pub(super) fn new_blocks(before: &Blocks, now: &Blocks, clock: Clock) -> String {
    let accepted = now.accepted.saturating_sub(before.accepted);
    let failed = now.failed.saturating_sub(before.failed);
    match (accepted, failed, &now.last) {
        (0, 0, _) => String::new(),
        (1, 0, Some(block)) | (0, 1, Some(block)) => {
            let Block {
                hash,
                identity,
                outcome,
                ..
            } = block;
            let height = number(block.height);
            format!("{clock}  block found: height {height}, {hash}, by {identity}: {outcome}\n")
        }
        _ => format!("{clock}  blocks found: {accepted} accepted, {failed} not\n"),
    }
}

pub(super) fn totals(now: &Figures, clock: Clock) -> String {
    format!(
        "\nstopped after {clock}: {} shares accepted, {} rejected, {} lost; {} blocks found\n",
        now.accepted, now.rejected, now.lost, now.blocks.accepted
    )
}

fn number(number: Option<u32>) -> String {
    number.map_or("-".to_owned(), |number| number.to_string())
}

fn hashrate(per_second: f64) -> String {
    Hashrate::new(per_second).map_or("-".to_owned(), |hashrate| hashrate.to_string())
}

/// Three significant digits: development difficulties are far below 1, real ones far above.
fn significant(number: f64) -> String {
    if number >= 100.0 {
        return format!("{number:.0}");
    }
    let mut digits = 2;
    let mut scaled = number;
    while scaled < 1.0 && digits < 12 {
        scaled *= 10.0;
        digits += 1;
    }
    format!("{number:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |what, at: &str| Place {
            what,
            at: at.into(),
            note: "note".into(),
        };
        let text = where_it_listens(&Places {
            rows: vec![row("pool", "127.0.0.1:34254"), row("translator", "[::]:1")],
            miner_url: "stratum+tcp://192.0.2.1:1".into(),
        });
        let columns: Vec<_> = text.lines().filter_map(|line| line.find("note")).collect();
        assert_eq!(columns.len(), 2, "{text}");
        assert_eq!(columns[0], columns[1], "{text}");
        assert!(
            text.contains("point a miner at stratum+tcp://192.0.2.1:1"),
            "{text}"
        );
    }

    #[test]
    fn a_block_is_told_once_with_its_height() {
        let before = Blocks::default();
        let now = Blocks {
            accepted: 1,
            last: Some(Block {
                height: Some(7),
                hash: "00ab".into(),
                identity: "miner.worker1".into(),
                outcome: "accepted".into(),
            }),
            ..Blocks::default()
        };
        let clock = Clock(Duration::from_secs(3_723));
        assert_eq!(
            new_blocks(&before, &now, clock),
            "1:02:03  block found: height 7, 00ab, by miner.worker1: accepted\n"
        );
        assert_eq!(new_blocks(&now, &now, clock), "");
    }

    #[test]
    fn small_difficulties_keep_their_digits() {
        assert_eq!(significant(0.000_976_56), "0.000977");
        assert_eq!(significant(1.5), "1.50");
        assert_eq!(significant(65_536.4), "65536");
        assert_eq!(significant(0.0), "0.000000000000");
    }
}
