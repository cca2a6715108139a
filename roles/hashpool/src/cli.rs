//! The command line.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand, ValueEnum};
use miner::simulate::{Arrivals, Quality, Rate};
use relay::billing::Step;
use service::logs::{LogConfig, LogFormat};

/// A Bitcoin mining stack: an SV2 pool, a translator for SV1 miners, and the tools around them.
#[derive(Debug, Parser)]
#[command(name = "hashpool", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) log: Log,
}

const EXIT_CODES: &str = "\
Configuration comes from --set over the environment (HASHPOOL_POOL__LISTEN_ADDRESS=...) over the file over defaults.
It ends with 0 when it was stopped, 1 when it failed, 2 when the command line or the configuration is wrong, and
128 + the signal's number when a second signal stopped it at once.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the pool: SV2 mining over Noise, on block templates of its own node
    Pool(RoleArgs),
    /// Run the template provider: block templates for any SV2 pool, from a bitcoin node over RPC
    TemplateProvider(RoleArgs),
    /// Run the translator: SV1 miners on one side, an SV2 pool on the other
    Translator(RoleArgs),
    /// Run the SV1 CPU miner, or simulate many miners: a tool for trying things out and for tests
    Miner(MinerArgs),
    /// Run the stats service of a pool: what happens there, kept and shown
    PoolStats(RoleArgs),
    /// Run the stats service of a translator: its miners and upstreams, kept and shown
    ProxyStats(RoleArgs),
    /// Run the relay: SV1 through to any pool unmodified, measured by client
    Relay(RelayArgs),
    /// Run chain, pool, translator, miner and stats services in one process, with development keys
    Up(UpArgs),
    /// Print what a pool's ledger holds: work by account and worker, or blocks
    Ledger(LedgerArgs),
    /// Make the authority key pair of a pool or a template provider
    Keygen(KeygenArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RoleArgs {
    /// The role's TOML file; defaults and the environment alone without it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set one key over all else, such as `limits.connections=100`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub(crate) overrides: Vec<(String, String)>,
    /// Check the configuration, print what would run (secrets hidden) and end
    #[arg(long)]
    pub(crate) check_config: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct RelayArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    #[command(subcommand)]
    pub(crate) command: Option<RelayCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RelayCommand {
    /// Print what each client used; while the relay runs, and when it does not
    Bill(BillArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BillArgs {
    /// The relay's TOML file, which says where it is kept
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set one key over all else, such as `storage.url=postgres://...`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub(crate) overrides: Vec<(String, String)>,
    /// The beginning: 2026-11-01, 2026-11-01T15:00:00Z, or a time ago such as 24h or 30d; hours count where they begin (UTC)
    #[arg(long, value_name = "TIME", value_parser = Moment::parse, default_value = "30d")]
    pub(crate) from: Moment,
    /// The end, which is not included; now if absent
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    pub(crate) to: Option<Moment>,
    /// Print this client only
    #[arg(long, value_name = "ID")]
    pub(crate) client: Option<String>,
    /// What is summed up together
    #[arg(long, value_enum, default_value_t = BillStep::Whole)]
    pub(crate) by: BillStep,
    /// Form of what is printed
    #[arg(long, value_enum, default_value_t = BillFormat::Table)]
    pub(crate) format: BillFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BillStep {
    /// All of the time
    Whole,
    /// Each day (UTC)
    Day,
    /// Each hour
    Hour,
}

impl From<BillStep> for Step {
    fn from(step: BillStep) -> Self {
        match step {
            BillStep::Whole => Self::Whole,
            BillStep::Day => Self::Day,
            BillStep::Hour => Self::Hour,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BillFormat {
    /// For people: work as difficulty
    Table,
    /// For programs and spreadsheets: work as expected hashes, exact
    Csv,
    /// For programs, exact; work is text, because a number there holds no more than 64 bits
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct MinerArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    /// Simulate so many miners instead, each with a connection of its own and the number added to its user name
    #[arg(long, value_name = "MINERS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) simulate: Option<u32>,
    /// Shares of each simulated miner: 6 or 6/min for a minute, 2.5/s for a second
    #[arg(
        long,
        value_name = "RATE",
        requires = "simulate",
        default_value = "6/min"
    )]
    pub(crate) rate: Rate,
    /// How shares follow each other: poisson, as real ones do, or even
    #[arg(
        long,
        value_name = "HOW",
        requires = "simulate",
        default_value = "poisson"
    )]
    pub(crate) arrivals: Arrivals,
    /// Fractions of bad shares, such as low=0.02,stale=0.05,duplicate=0.02,malformed=0.01; the rest are good
    #[arg(
        long,
        value_name = "FRACTIONS",
        requires = "simulate",
        default_value = "good=1"
    )]
    pub(crate) quality: Quality,
    /// What all chances are drawn from
    #[arg(
        long,
        value_name = "NUMBER",
        requires = "simulate",
        default_value_t = 0
    )]
    pub(crate) seed: u64,
    /// Simulate for so many seconds; until stopped if absent
    #[arg(long, value_name = "SECONDS", requires = "simulate", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub(crate) seconds: Option<u64>,
    /// Good shares that are expected to need more hashes are not searched for and sent with any nonce
    #[arg(long, value_name = "HASHES", requires = "simulate", value_parser = hashrate, default_value = "1048576")]
    pub(crate) most_hashes: f64,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Use this bitcoin node instead of the embedded chain: http://user:pass@127.0.0.1:18443
    #[arg(
        long,
        value_name = "URL",
        env = "HASHPOOL_UP_NODE",
        hide_env_values = true
    )]
    pub(crate) node: Option<String>,
    /// Where the development keys and the databases live; made at the first run
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub(crate) data: PathBuf,
    /// Address or descriptor that blocks pay; a key in the data folder if absent
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) payout: Option<String>,
    /// Threads of the CPU miner; 0 runs the stack without it
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// The most that the CPU miner hashes per second, such as 500k or 2M
    #[arg(long, value_name = "LIMIT", value_parser = hashrate)]
    pub(crate) hashrate: Option<f64>,
    /// Set one key of a role, such as `translator.listen_address=0.0.0.0:3333`; may be repeated
    #[arg(long = "set", value_name = "ROLE.KEY=VALUE", value_parser = key_and_value)]
    pub(crate) overrides: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct LedgerArgs {
    /// The pool's TOML file, which says where the ledger is
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set one key over all else, such as `storage.url=postgres://...`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub(crate) overrides: Vec<(String, String)>,
    /// What to print
    #[arg(long, value_enum, default_value_t = LedgerView::Workers)]
    pub(crate) show: LedgerView,
    /// The beginning: 2026-11-20, 2026-11-20T15:00:00Z, or a time ago such as 90m, 24h or 7d
    #[arg(long, value_name = "TIME", value_parser = Moment::parse, default_value = "24h")]
    pub(crate) from: Moment,
    /// The end, which is not included; now if absent
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    pub(crate) to: Option<Moment>,
    /// Print this account only
    #[arg(long, value_name = "NAME")]
    pub(crate) account: Option<String>,
    /// Form of what is printed
    #[arg(long, value_enum, default_value_t = TableFormat::Table)]
    pub(crate) format: TableFormat,
}

/// What of the ledger to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LedgerView {
    /// Work of each worker, with its average hashrate over the time
    Workers,
    /// Work of each account, likewise
    Accounts,
    /// Blocks with their state
    Blocks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableFormat {
    /// For people: work as difficulty
    Table,
    /// For programs: work as expected hashes, exact
    Csv,
}

/// A moment as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    At(SystemTime),
    Ago(Duration),
}

impl Moment {
    fn parse(text: &str) -> Result<Self, String> {
        let whole_day = format!("{text}T00:00:00Z");
        humantime::parse_rfc3339(text)
            .or_else(|_| humantime::parse_rfc3339(&whole_day))
            .map(Self::At)
            .or_else(|_| humantime::parse_duration(text).map(Self::Ago))
            .map_err(|_| {
                "use 2026-11-20, 2026-11-20T15:00:00Z (UTC), or a time ago such as 90m, 24h or 7d"
                    .to_owned()
            })
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn ms(self, now: SystemTime) -> i64 {
        let at = match self {
            Self::At(at) => at,
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(UNIX_EPOCH),
        };
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    /// The file for the secret key; must not exist
    #[arg(long, value_name = "FILE", default_value = "authority.key")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Log {
    /// Level, or directives such as `info,pool=debug`
    #[arg(
        id = "log_level",
        long = "log-level",
        value_name = "LEVEL",
        env = "HASHPOOL_LOG_LEVEL",
        global = true
    )]
    level: Option<String>,
    /// Form of the log on standard error: auto, pretty, plain or json
    #[arg(
        id = "log_format",
        long = "log-format",
        value_name = "FORMAT",
        env = "HASHPOOL_LOG_FORMAT",
        global = true
    )]
    format: Option<LogFormat>,
}

impl Log {
    /// What was asked for, at `level` if no level was.
    pub(crate) fn config(&self, level: &str) -> LogConfig {
        LogConfig {
            level: self.level.clone().unwrap_or_else(|| level.to_owned()),
            format: self.format.unwrap_or_default(),
        }
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.trim().to_owned(), value.to_owned()))
        .ok_or_else(|| "use KEY=VALUE, such as limits.connections=100".to_owned())
}

/// Hashes per second with an optional k, M, G or T.
fn hashrate(text: &str) -> Result<f64, String> {
    let (number, factor) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'M')) => (&text[..at], 1e6),
        Some((at, 'G')) => (&text[..at], 1e9),
        Some((at, 'T')) => (&text[..at], 1e12),
        _ => (text, 1.0),
    };
    match number.trim().parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number * factor),
        _ => Err("use hashes per second, such as 500000, 500k or 2M".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_moment_is_a_day_a_time_or_a_while_ago() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let ms = |text| Moment::parse(text).map(|moment| moment.ms(now));
        assert_eq!(ms("1970-01-02"), Ok(86_400_000));
        assert_eq!(ms("1970-01-01T00:01:00Z"), Ok(60_000));
        assert_eq!(ms("90m"), Ok(1_000_000_000 - 5_400_000));
        assert_eq!(ms("1000years"), Ok(0));
        for wrong in ["", "yesterday", "1970-13-01", "-5m", "24"] {
            assert!(ms(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_hashrate_limit_is_read_with_its_unit() {
        assert_eq!(hashrate("500k"), Ok(500_000.0));
        assert_eq!(hashrate("2.5M"), Ok(2_500_000.0));
        assert_eq!(hashrate("7"), Ok(7.0));
        for wrong in ["", "k", "-1", "0", "NaN", "inf", "fast"] {
            assert!(hashrate(wrong).is_err(), "{wrong}");
        }
    }
}
