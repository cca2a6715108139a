//! Where log lines go and how they look.

use std::io::{self, IsTerminal};

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;
use tracing_subscriber::fmt::format::{DefaultFields, Format};

/// What is logged, and in which form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`), or `tracing` directives such as `info,pool=debug`.
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: LogFormat::Auto,
        }
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// `Pretty` on a terminal, `Plain` elsewhere.
    #[default]
    Auto,
    /// Short lines in colour, without the module's path.
    Pretty,
    /// One line per event, no colour.
    Plain,
    /// One JSON object per event.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "pretty" => Ok(Self::Pretty),
            "plain" => Ok(Self::Plain),
            "json" => Ok(Self::Json),
            _ => Err(format!(
                "unknown log format {text:?}: use auto, pretty, plain or json"
            )),
        }
    }
}

/// Why logging could not be set up; both are the operator's or the caller's to mend.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `level` is neither a level nor a list of directives.
    #[error(
        "log level {level:?} is not understood ({reason}); use a level such as \"info\" or directives such as \"info,pool=debug\""
    )]
    Level {
        /// What was configured.
        level: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody set up logging before.
    #[error("logging is already set up in this process")]
    AlreadySet,
}

/// Sends log lines to standard error from now on. Call it once in a process, before the first task starts.
///
/// # Errors
/// [`LogError`], when `level` is not understood or logging is already set up.
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    let filter = EnvFilter::builder()
        .parse(&config.level)
        .map_err(|error| LogError::Level {
            level: config.level.clone(),
            reason: error.to_string(),
        })?;
    let terminal = io::stderr().is_terminal();
    let lines: SubscriberBuilder<DefaultFields, Format, EnvFilter, fn() -> io::Stderr> =
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            // It would be told on standard error, and whoever cannot write there would panic.
            .log_internal_errors(false)
            .with_writer(io::stderr as fn() -> io::Stderr)
            .with_ansi(false);
    let set = match (config.format, terminal) {
        (LogFormat::Pretty, _) | (LogFormat::Auto, true) => {
            tracing::subscriber::set_global_default(
                lines
                    .with_ansi(terminal)
                    .with_target(false)
                    .compact()
                    .finish(),
            )
        }
        (LogFormat::Plain, _) | (LogFormat::Auto, false) => {
            tracing::subscriber::set_global_default(lines.finish())
        }
        (LogFormat::Json, _) => {
            tracing::subscriber::set_global_default(lines.json().flatten_event(true).finish())
        }
    };
    set.map_err(|_| LogError::AlreadySet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_not_one_is_named_in_the_error() {
        let config = LogConfig {
            level: "pool=loud".into(),
            ..LogConfig::default()
        };
        let error = init(&config).unwrap_err().to_string();
        assert!(error.contains("pool=loud"), "{error}");
    }
}
