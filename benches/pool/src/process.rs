//! A process that is measured, and what the kernel says of it.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::Result;

/// A process that ends with this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// That the kernel has given it pages for.
    pub resident: u64,
    /// That it has asked for.
    pub mapped: u64,
}

/// Processor time by thread, with the thread's name.
#[derive(Debug)]
pub struct ProcessorTimes(HashMap<OsString, (String, Duration)>);

impl ProcessorTimes {
    /// What was used since `before`. Threads that have ended meanwhile are not counted; pools keep theirs.
    #[must_use]
    pub fn since(&self, before: &Self) -> Duration {
        self.used(before, |_| true)
    }

    /// The same of threads with this name.
    #[must_use]
    pub fn since_of(&self, before: &Self, name: &str) -> Duration {
        self.used(before, |known| known == name)
    }

    fn used(&self, before: &Self, counts: impl Fn(&str) -> bool) -> Duration {
        let threads = self.0.iter().filter(|(_, (name, _))| counts(name));
        threads
            .map(|(thread, (_, time))| {
                let before = before.0.get(thread).map(|(_, before)| *before);
                time.saturating_sub(before.unwrap_or_default())
            })
            .sum()
    }
}

impl Process {
    /// Starts it, with all that it says in this file.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Processor time of each of its threads until now, in user space and in the kernel.
    ///
    /// `/proc/PID/stat` has the sum, but in steps of ten milliseconds.
    ///
    /// # Errors
    /// If it has ended.
    pub fn processor_times(&self) -> Result<ProcessorTimes> {
        let mut times = HashMap::new();
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let thread = thread?;
            // One that has ended since the folder was read.
            let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else {
                continue;
            };
            let nanoseconds = text.split_whitespace().next().unwrap_or_default().parse()?;
            let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            let named = (name.trim().to_owned(), Duration::from_nanos(nanoseconds));
            times.insert(thread.file_name(), named);
        }
        Ok(ProcessorTimes(times))
    }

    /// What it occupies now.
    ///
    /// # Errors
    /// If it has ended.
    pub fn memory(&self) -> Result<Memory> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kibibytes = line.and_then(|rest| rest.split_whitespace().next());
            let kibibytes = kibibytes.ok_or_else(|| format!("/proc/PID/status has no {name}"))?;
            Ok::<_, crate::Error>(kibibytes.parse::<u64>()? * 1024)
        };
        Ok(Memory {
            resident: field("VmRSS:")?,
            mapped: field("VmSize:")?,
        })
    }

    /// The end of what it said, where it has failed.
    #[must_use]
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// Whether it runs no more.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
