//! How the process ends when it cannot go on: one line and an exit code.

use std::fmt;
use std::process::ExitCode;

/// Why the process ends.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line or the configuration is wrong; nothing ran.
    Configuration(String),
    /// A role could not start or go on.
    Running(String),
}

impl Failure {
    pub(crate) fn configuration(error: impl fmt::Display) -> Self {
        Self::Configuration(one_line(&error.to_string()))
    }

    pub(crate) fn running(error: impl fmt::Display) -> Self {
        Self::Running(one_line(&error.to_string()))
    }

    /// The process's exit code; `--help` documents it.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Running(_) => ExitCode::from(1),
            Self::Configuration(_) => ExitCode::from(2),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(text) | Self::Running(text) => f.write_str(text),
        }
    }
}

/// A log or a terminal shows one line; some errors of others have more.
fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines.join("; ")
}
