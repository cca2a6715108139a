//! `hashpool ledger`: what a pool's ledger holds, as a table for people or as CSV for programs.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ledger::{Block, Minutes, Reader, Work};
use service::config;
use work::Difficulty;

use crate::cli::{LedgerArgs, LedgerView, TableFormat};
use crate::failure::Failure;
use crate::role;
use crate::table::{Table, harmless, significant};

/// The most blocks that are printed.
const MOST_BLOCKS: u32 = 100_000;

/// Reads the ledger and prints what was asked for.
pub(crate) async fn run(args: LedgerArgs) -> Result<(), Failure> {
    config::check_environment(&role::NAMES, std::env::vars_os()).map_err(Failure::configuration)?;
    let pool: pool::Config = config::load("pool", args.config.as_deref(), &args.overrides)
        .map_err(Failure::configuration)?;
    let now = SystemTime::now();
    let from = args.from.ms(now);
    let to = args.to.map_or(i64::MAX, |to| to.ms(now));
    if from >= to {
        return Err(Failure::configuration("--from has to be before --to"));
    }
    let mut reader = Reader::open(&pool.storage())
        .await
        .map_err(Failure::running)?;
    let wanted = |account: &str| args.account.as_deref().is_none_or(|name| name == account);
    let table = if args.show == LedgerView::Blocks {
        let blocks = reader.newest_blocks(from, MOST_BLOCKS).await;
        let mut blocks = blocks.map_err(Failure::running)?;
        blocks.retain(|block| wanted(&block.account) && block.found_ms < to);
        blocks_table(&blocks, args.format)
    } else {
        let window = Minutes::of_ms(&(from..to));
        let mut work = reader.work(window).await.map_err(Failure::running)?;
        work.retain(|row| wanted(&row.account));
        if args.show == LedgerView::Accounts {
            work = by_account(work);
        }
        let now = args.to.map_or(now, |_| time(to));
        let seconds = now.duration_since(time(from)).unwrap_or_default();
        work_table(&work, args.format, seconds.as_secs_f64())
    };
    let printed = match args.format {
        TableFormat::Table => table.aligned(),
        TableFormat::Csv => table.csv().map_err(Failure::running)?,
    };
    io::stdout().write_all(&printed).map_err(Failure::running)
}

/// Work of all workers of an account together.
fn by_account(work: Vec<Work>) -> Vec<Work> {
    let mut accounts: BTreeMap<(String, bool), Work> = BTreeMap::new();
    for row in work {
        accounts
            .entry((row.account.clone(), row.solo))
            .and_modify(|sum| {
                sum.shares += row.shares;
                sum.work += row.work;
            })
            .or_insert_with(|| Work {
                worker: "*".to_owned(),
                ..row.clone()
            });
    }
    accounts.into_values().collect()
}

#[allow(clippy::cast_precision_loss)]
fn work_table(work: &[Work], format: TableFormat, seconds: f64) -> Table {
    let mut table = Table::default();
    match format {
        TableFormat::Csv => {
            table.push(["account", "worker", "solo", "shares", "work"]);
            for row in work {
                let (solo, shares, work) = (row.solo, row.shares, row.work);
                table.push([
                    &*harmless(&row.account),
                    &*harmless(&row.worker),
                    &solo.to_string(),
                    &shares.to_string(),
                    &work.to_string(),
                ]);
            }
        }
        TableFormat::Table => {
            table.push([
                "ACCOUNT",
                "WORKER",
                "PAID BY",
                "SHARES",
                "DIFFICULTY",
                "HASHRATE",
            ]);
            for row in work {
                let difficulty = row.work as f64 / Difficulty::ONE.target().work() as f64;
                table.push([
                    &row.account,
                    &row.worker,
                    if row.solo { "own blocks" } else { "pool" },
                    &row.shares.to_string(),
                    &significant(difficulty),
                    &hashrate(row.work as f64 / seconds),
                ]);
            }
        }
    }
    table
}

fn blocks_table(blocks: &[Block], format: TableFormat) -> Table {
    let mut table = Table::default();
    let height = |block: &Block| block.height.map_or_else(String::new, |h| h.to_string());
    match format {
        TableFormat::Csv => {
            table.push([
                "found",
                "height",
                "hash",
                "account",
                "worker",
                "solo",
                "reward_sats",
                "state",
            ]);
            for block in blocks {
                table.push([
                    &found(block),
                    &height(block),
                    &block.shown_hash(),
                    &*harmless(&block.account),
                    &*harmless(&block.worker),
                    &block.solo.to_string(),
                    &block.reward_sats.to_string(),
                    block.state.name(),
                ]);
            }
        }
        TableFormat::Table => {
            table.push([
                "FOUND", "HEIGHT", "HASH", "ACCOUNT", "WORKER", "REWARD", "STATE",
            ]);
            for block in blocks {
                let sats = block.reward_sats;
                table.push([
                    &found(block),
                    &height(block),
                    &block.shown_hash(),
                    &block.account,
                    &block.worker,
                    &format!("{}.{:08}", sats / 100_000_000, sats % 100_000_000),
                    &block.state.to_string(),
                ]);
            }
        }
    }
    table
}

fn found(block: &Block) -> String {
    humantime::format_rfc3339_seconds(time(block.found_ms)).to_string()
}

fn time(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms.unsigned_abs())
}

/// Hashes per second with a unit.
fn hashrate(value: f64) -> String {
    const UNITS: [&str; 8] = ["", "k", "M", "G", "T", "P", "E", "Z"];
    let mut value = value;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.2} {}H/s", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(account: &str, worker: &str, shares: u64, work: u128) -> Work {
        Work {
            account: account.to_owned(),
            worker: worker.to_owned(),
            solo: false,
            shares,
            work,
        }
    }

    #[test]
    fn csv_is_exact_and_quotes_what_needs_it() {
        let work = [row("a,\"b\"", "rig", 2, u128::from(u64::MAX) * 3)];
        let text = work_table(&work, TableFormat::Csv, 60.0).csv().unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "account,worker,solo,shares,work\n\"a,\"\"b\"\"\",rig,false,2,55340232221128654845\n"
        );
    }

    #[test]
    fn no_name_in_csv_is_a_formula() {
        let work = [row("=1+1", "@rig", 1, 1)];
        let text = work_table(&work, TableFormat::Csv, 60.0).csv().unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "account,worker,solo,shares,work\n'=1+1,'@rig,false,1,1\n"
        );
    }

    #[test]
    fn a_table_is_aligned_and_no_name_commands_the_terminal() {
        let work = [
            row("alice", "\u{1b}[2J\u{202e}", 10, 1 << 40),
            row("bob", "", 1, 5),
        ];
        let table = work_table(&work, TableFormat::Table, 1.0);
        let text = String::from_utf8(table.aligned()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1].find("pool"), lines[2].find("pool"), "{text}");
        assert!(lines[1].contains("\\u{1b}[2J\\u{202e}"), "{text}");
        assert!(lines[1].ends_with("1.10 TH/s"), "{text}");
    }

    #[test]
    fn an_account_is_the_sum_of_its_workers() {
        let work = vec![
            row("a", "1", 1, 10),
            row("a", "2", 2, 20),
            row("b", "1", 4, 40),
        ];
        assert_eq!(
            by_account(work),
            [row("a", "*", 3, 30), row("b", "*", 4, 40)]
        );
    }
}
