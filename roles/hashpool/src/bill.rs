//! `hashpool relay bill`: what each client of a relay used.

use std::io::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use relay::billing::{Bill, Hours, Reader, Step};
use work::Difficulty;

use crate::cli::{BillArgs, BillFormat, RoleArgs};
use crate::failure::Failure;
use crate::role;
use crate::table::{Table, harmless, significant};

/// Reads what relays have written and prints what was asked for.
pub(crate) async fn run(args: BillArgs) -> Result<(), Failure> {
    let args_of_role = RoleArgs {
        config: args.config,
        overrides: args.overrides,
        check_config: false,
    };
    // Whoever prints bills need not be allowed to read the relay's keys.
    let config = role::load_for::<role::Relay>(&args_of_role, |config| {
        config.storage.validate().map_err(|error| error.to_string())
    })?;
    let now = SystemTime::now();
    let from = args.from.ms(now);
    let to = args.to.map_or(i64::MAX, |to| to.ms(now));
    if from >= to {
        return Err(Failure::configuration("--from has to be before --to"));
    }
    let mut reader = Reader::open(&config.storage)
        .await
        .map_err(Failure::running)?;
    let hours = Hours::of_ms(&(from..to));
    let bills = reader.bills(hours, args.by.into()).await;
    let mut bills = bills.map_err(Failure::running)?;
    if let Some(wanted) = &args.client {
        bills.retain(|bill| bill.client == *wanted);
    }
    let whole = Step::from(args.by) == Step::Whole;
    let printed = match args.format {
        BillFormat::Table => table(&bills, whole).aligned(),
        BillFormat::Csv => csv(&bills, whole).csv().map_err(Failure::running)?,
        BillFormat::Json => json(&bills)?,
    };
    io::stdout().write_all(&printed).map_err(Failure::running)
}

/// For people.
fn table(bills: &[Bill], whole: bool) -> Table {
    let mut table = Table::default();
    let titles = [
        "CLIENT",
        "SENT",
        "RECEIVED",
        "SUBMITS",
        "ACCEPTED",
        "REJECTED",
        "DIFFICULTY",
        "CONNECTED",
    ];
    if whole {
        table.push(titles);
    } else {
        table.push_all(std::iter::once("FROM").chain(titles));
    }
    for bill in bills {
        let usage = &bill.usage;
        // For people: a double has more digits than are printed.
        #[allow(clippy::cast_precision_loss)]
        let difficulty = usage.work as f64 / Difficulty::ONE.target().work() as f64;
        let connected = Duration::from_secs(usage.connection_ms / 1000);
        let cells = [
            bill.client.clone(),
            bytes(usage.bytes_sent),
            bytes(usage.bytes_received),
            usage.submits.to_string(),
            usage.accepted.to_string(),
            usage.rejected.to_string(),
            significant(difficulty),
            humantime::format_duration(connected).to_string(),
        ];
        let from = (!whole).then(|| moment(bill.from_ms));
        table.push_all(from.iter().chain(&cells).map(String::as_str));
    }
    table
}

/// For programs: everything exact.
fn csv(bills: &[Bill], whole: bool) -> Table {
    let mut table = Table::default();
    let titles = [
        "client",
        "bytes_sent",
        "bytes_received",
        "submits",
        "accepted",
        "rejected",
        "work",
        "connection_seconds",
    ];
    if whole {
        table.push(titles);
    } else {
        table.push_all(std::iter::once("from").chain(titles));
    }
    for bill in bills {
        let usage = &bill.usage;
        let cells = [
            harmless(&bill.client).into_owned(),
            usage.bytes_sent.to_string(),
            usage.bytes_received.to_string(),
            usage.submits.to_string(),
            usage.accepted.to_string(),
            usage.rejected.to_string(),
            usage.work.to_string(),
            seconds(usage.connection_ms),
        ];
        let from = (!whole).then(|| moment(bill.from_ms));
        table.push_all(from.iter().chain(&cells).map(String::as_str));
    }
    table
}

fn json(bills: &[Bill]) -> Result<Vec<u8>, Failure> {
    let mut text = serde_json::to_vec_pretty(bills).map_err(Failure::running)?;
    text.push(b'\n');
    Ok(text)
}

fn moment(ms: i64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(ms.unsigned_abs());
    humantime::format_rfc3339_seconds(time).to_string()
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// Bytes in the units of a bill: a thousand each.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    // For people: a double has more digits than are printed.
    #[allow(clippy::cast_precision_loss)]
    let mut value = count as f64 / 1e3;
    let mut unit = 0;
    while value >= 999.995 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    format!("{value:.2} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use relay::billing::Usage;

    use super::*;

    fn bill(client: &str) -> Bill {
        Bill {
            from_ms: 1_796_000_400_000,
            client: client.to_owned(),
            usage: Usage {
                bytes_sent: 999_999,
                bytes_received: 12,
                submits: 4,
                accepted: 3,
                rejected: 1,
                work: (1 << 100) + 1,
                connection_ms: 7_200_500,
            },
        }
    }

    #[test]
    fn csv_is_exact_and_no_name_becomes_a_formula() {
        let bills = [bill("=1+1"), bill("a,b"), bill("-x"), bill("x-")];
        let text = String::from_utf8(csv(&bills, true).csv().unwrap()).unwrap();
        let rest = ",999999,12,4,3,1,1267650600228229401496703205377,7200.500\n";
        let header =
            "client,bytes_sent,bytes_received,submits,accepted,rejected,work,connection_seconds\n";
        assert_eq!(
            text,
            format!("{header}'=1+1{rest}\"a,b\"{rest}'-x{rest}x-{rest}")
        );
    }

    #[test]
    fn json_holds_work_as_text() {
        let text = json(&[bill("a")]).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(read[0]["work"], "1267650600228229401496703205377");
        assert_eq!(read[0]["client"], "a");
        assert_eq!(read[0]["connection_ms"], 7_200_500);
    }

    #[test]
    fn a_table_says_when_each_part_begins() {
        let text = String::from_utf8(table(&[bill("a")], false).aligned()).unwrap();
        let line = text.lines().nth(1).unwrap();
        assert!(line.starts_with("2026-11-30T01:00:00Z  a  "), "{text}");
        assert!(line.contains("  1.00 MB  "), "{text}");
        assert!(line.ends_with("2h"), "{text}");
    }

    #[test]
    fn bytes_that_round_up_to_a_thousand_have_the_next_unit() {
        for (count, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (999_990, "999.99 kB"),
            (999_994, "999.99 kB"),
            (999_995, "1.00 MB"),
            (999_999, "1.00 MB"),
            (999_999_999_999, "1.00 TB"),
            (u64::MAX, "18.45 EB"),
        ] {
            assert_eq!(bytes(count), shown, "{count}");
        }
    }
}
