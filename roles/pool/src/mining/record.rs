//! What a stats service is told of the channels of one connection.

use super::{Channel, Mining, Rejection, Submission};
use crate::peers::{Record, WorkerRecord, note_end};

/// Extension 0x0001, and with it 0x0002.
const NEGOTIATION: [u16; 1] = [1];
const WORKER_NAMES: [u16; 2] = [1, 2];

impl Mining {
    /// How its workers do now.
    pub(crate) fn record(&self) -> Record {
        Record {
            workers: self.channels.iter().flat_map(|it| workers(it)).collect(),
            channels: u32::try_from(self.channels.len()).unwrap_or(u32::MAX),
            extensions: match (self.negotiated, self.shares_name_workers) {
                (_, true) => &WORKER_NAMES,
                (true, false) => &NEGOTIATION,
                (false, false) => &[],
            },
            ..Record::default()
        }
    }

    /// A channel is closed: these are its workers' last counts.
    pub(super) fn note_ended(&mut self, channel: &Channel) {
        if self.resources.settings.told {
            workers(channel).for_each(|worker| note_end(&mut self.ended, worker));
        }
    }

    pub(super) fn note_rejection(
        &mut self,
        at: Option<usize>,
        submission: &Submission<'_>,
        rejection: Rejection,
    ) {
        let Some(at) = at.filter(|_| self.resources.settings.told) else {
            return;
        };
        let name = submission.worker().filter(|_| self.shares_name_workers);
        let worker = self.channels[at].workers.of_refused(name);
        worker.counts.get_or_insert_default().reject(rejection);
    }
}

fn workers(channel: &Channel) -> impl Iterator<Item = WorkerRecord> {
    let difficulty = channel.target().difficulty().value();
    channel.workers.all().map(move |worker| WorkerRecord {
        owner: worker.owner.clone(),
        channel: channel.id,
        since: channel.opened_at,
        difficulty,
        counts: worker.counts.clone(),
    })
}
