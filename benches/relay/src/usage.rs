//! What a process and those that it has started use.

use std::{collections::HashMap, fs, time::Duration};

use bench_pool::{Result, process::Process};

/// Processor time of each thread of the processes, by its number.
pub(crate) struct Times(HashMap<u32, Duration>);

impl Times {
    /// Until now; nothing for no process.
    pub(crate) fn of(process: Option<&Process>) -> Result<Self> {
        let mut times = HashMap::new();
        for id in family(process) {
            for thread in children_of_folder(&format!("/proc/{id}/task"))? {
                // One that has ended since the folder was read.
                let path = format!("/proc/{id}/task/{thread}/schedstat");
                let Ok(text) = fs::read_to_string(path) else {
                    continue;
                };
                let nanoseconds = text.split_whitespace().next().unwrap_or_default().parse()?;
                times.insert(thread, Duration::from_nanos(nanoseconds));
            }
        }
        Ok(Self(times))
    }

    /// What was used since `before` by what still runs.
    pub(crate) fn since(&self, before: &Self) -> Duration {
        let used = |(thread, time): (&u32, &Duration)| {
            time.saturating_sub(before.0.get(thread).copied().unwrap_or_default())
        };
        self.0.iter().map(used).sum()
    }
}

/// Bytes of memory, with what processes share divided among them.
pub(crate) fn memory(process: Option<&Process>) -> Result<u64> {
    let mut kibibytes = 0;
    for id in family(process) {
        let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?;
        let pss = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let pss = pss.and_then(|rest| rest.split_whitespace().next());
        kibibytes += pss.ok_or("smaps_rollup has no Pss")?.parse::<u64>()?;
    }
    Ok(kibibytes * 1024)
}

/// The process and those that it has started.
fn family(process: Option<&Process>) -> Vec<u32> {
    let Some(process) = process else {
        return Vec::new();
    };
    let mut all = vec![process.id()];
    let path = format!("/proc/{0}/task/{0}/children", process.id());
    let children = fs::read_to_string(path).unwrap_or_default();
    all.extend(
        children
            .split_whitespace()
            .filter_map(|id| id.parse::<u32>().ok()),
    );
    all
}

fn children_of_folder(path: &str) -> Result<Vec<u32>> {
    // A child may have ended.
    let Ok(folder) = fs::read_dir(path) else {
        return Ok(Vec::new());
    };
    let mut numbers = Vec::new();
    for entry in folder {
        numbers.extend(entry?.file_name().to_string_lossy().parse::<u32>().ok());
    }
    Ok(numbers)
}
