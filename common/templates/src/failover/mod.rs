//! Several sources as one: the first good one gives the templates, every one that can takes the blocks.

mod selector;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bitcoin::Network;
use bytes::Bytes;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::{
    FailoverConfig, Fate, FateError, Health, Solution, SourceStatus, Status, Submission, Template,
    health::Board, running::Running,
};
use selector::{Patience, Selector, View};

/// How often the sources are looked at when nothing happens.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long the end waits for nodes that have not answered to a block yet. Whoever waits for an answer has had it; the node
/// that has accepted the block passes it on, too.
const LAST_OFFERS: Duration = Duration::from_secs(10);

/// Templates of which it is known who made them. Longer than any job lives.
const REMEMBERED: usize = 1024;

/// Several sources on one chain, in the order of preference.
pub(crate) struct Failover {
    sources: Vec<Running>,
    /// What is published; its health and status are those of the source in use.
    pub(crate) board: Board,
    state: Mutex<State>,
    /// Blocks on their way to a source; they outlive the wait for the best answer.
    offers: TaskTracker,
}

#[derive(Default)]
struct State {
    used: Option<usize>,
    last_id: u64,
    /// The newest at the end.
    origins: VecDeque<Origin>,
}

/// Where a published template came from.
#[derive(Clone, Copy)]
struct Origin {
    id: u64,
    source: usize,
    /// Its id there.
    source_id: u64,
}

impl Failover {
    /// Watches the sources until `shutdown`.
    pub(crate) fn start(
        sources: Vec<Running>,
        config: &FailoverConfig,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let seconds = |value: u32| Duration::from_secs(value.into());
        let patience = Patience {
            leave_after: seconds(config.after_seconds),
            return_after: seconds(config.return_after_seconds),
        };
        let failover = Arc::new(Self {
            sources,
            // Its own age is never asked for.
            board: Board::new("failover", String::new(), Duration::MAX),
            state: Mutex::default(),
            offers: TaskTracker::new(),
        });
        let task = Arc::clone(&failover).run(patience);
        tokio::spawn(async move { shutdown.run_until_cancelled(task).await });
        failover
    }

    async fn run(self: Arc<Self>, patience: Patience) {
        let changed = Arc::new(Notify::new());
        let mut watchers = tokio::task::JoinSet::new();
        for source in &self.sources {
            let (mut newest, changed) = (source.board.subscribe(), Arc::clone(&changed));
            watchers.spawn(async move {
                while newest.changed().await.is_ok() {
                    changed.notify_one();
                }
            });
        }
        let mut selector = Selector::new(patience, self.sources.len(), Instant::now());
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.look(&mut selector);
            tokio::select! {
                () = changed.notified() => {}
                _ = look.tick() => {}
            }
        }
    }

    /// Chooses a source, and publishes what it has that is new.
    fn look(&self, selector: &mut Selector) {
        let network = self.chain();
        let newest: Vec<Option<Arc<Template>>> = self
            .sources
            .iter()
            .map(|source| source.board.newest())
            .collect();
        let views: Vec<View> = self
            .sources
            .iter()
            .zip(&newest)
            .map(|(source, newest)| {
                let health = source.board.health();
                View {
                    answers: health.fresh
                        && health.error.is_none()
                        && source.board.network() == network,
                    height: newest.as_ref().and_then(|template| template.height()),
                }
            })
            .collect();
        let mined = self.board.newest().and_then(|template| template.height());
        let Some(choice) = selector.choose(&views, mined, Instant::now()) else {
            self.give_up_where_nothing_can_mend();
            return;
        };
        self.announce(choice.place);
        if let (true, Some(template), Some(network)) =
            (choice.publish, &newest[choice.place], network)
        {
            self.board.set_network(network);
            self.publish(choice.place, template);
        }
    }

    /// The chain that all have to be on: that of what is mined on, or of the first source that knows its own.
    fn chain(&self) -> Option<Network> {
        let first = || {
            self.sources
                .iter()
                .find_map(|source| source.board.network())
        };
        self.board.network().or_else(first)
    }

    fn announce(&self, used: usize) {
        let before = self.state().used.replace(used);
        if before == Some(used) {
            return;
        }
        let name = |place: usize| self.sources[place].board.name();
        match before {
            // The usual start is nothing to tell.
            None if used == 0 => {}
            None => warn!(
                source = name(used),
                "templates come from a source that is not the first"
            ),
            Some(before) => warn!(
                source = name(used),
                before = name(before),
                "templates come from another source now"
            ),
        }
    }

    fn publish(&self, used: usize, template: &Arc<Template>) {
        let mut state = self.state();
        let published = state.origins.back();
        if published.is_some_and(|last| last.source == used && last.source_id == template.id) {
            return;
        }
        state.last_id += 1;
        let id = state.last_id;
        if state.origins.len() == REMEMBERED {
            state.origins.pop_front();
        }
        state.origins.push_back(Origin {
            id,
            source: used,
            source_id: template.id,
        });
        self.board.publish(Template {
            id,
            ..Template::clone(template)
        });
    }

    /// An operator has to act only if no source can become good by itself.
    fn give_up_where_nothing_can_mend(&self) {
        let mut problems = self.sources.iter().map(|source| source.board.fatal());
        if let Some(Some(first)) = problems.next()
            && problems.all(|problem| problem.is_some())
        {
            self.board.fail_for_good(first);
        }
    }

    /// Gives the solution to the source whose template it solves, and the block to all others that take one: it has to
    /// reach the network by any way there is. Answers when one has accepted it, or all have said something.
    pub(crate) async fn submit(&self, solution: Solution) -> Submission {
        let origin = self.state().origin(solution.template.id);
        let block = solution.block();
        let (answer, answers) = mpsc::channel(self.sources.len());
        if let Some(origin) = origin {
            let source = self.sources[origin.source].clone();
            let template = Template {
                id: origin.source_id,
                ..Template::clone(&solution.template)
            };
            let solution = Solution {
                template: Arc::new(template),
                ..solution
            };
            let answer = answer.clone();
            self.offers
                .spawn(async move { answer.send(source.submit(solution).await).await });
        }
        if let Some(block) = block {
            self.offer(&block, origin.map(|origin| origin.source), &answer);
        }
        drop(answer);
        let submission = best(answers).await;
        self.board.count(&submission);
        submission
    }

    /// As [`Failover::submit`], without a source that knows the template.
    pub(crate) async fn submit_block(&self, block: Bytes) -> Submission {
        let (answer, answers) = mpsc::channel(self.sources.len());
        self.offer(&block, None, &answer);
        drop(answer);
        let submission = best(answers).await;
        self.board.count(&submission);
        submission
    }

    /// Each in a task of its own, so that a block goes on to all when nobody waits any more.
    fn offer(&self, block: &Bytes, except: Option<usize>, answer: &mpsc::Sender<Submission>) {
        for (place, source) in self.sources.iter().enumerate() {
            if Some(place) == except || !source.takes_blocks() || self.foreign_to(source).is_some()
            {
                continue;
            }
            let (source, block, answer) = (source.clone(), block.clone(), answer.clone());
            self.offers
                .spawn(async move { answer.send(source.submit_block(block).await).await });
        }
    }

    /// Waits until each source that was offered a block has answered, but not for long.
    pub(crate) async fn finish(&self) {
        self.offers.close();
        if timeout(LAST_OFFERS, self.offers.wait()).await.is_err() {
            warn!("the process ends before every node has answered to a block");
        }
    }

    /// What the source in use says counts first; another is asked where it does not know.
    pub(crate) async fn fate(&self, hash: [u8; 32], height: u32) -> Result<Fate, FateError> {
        let used = self.state().used;
        let others = (0..self.sources.len()).filter(|place| Some(*place) != used);
        let mut answer = None;
        for place in used.into_iter().chain(others) {
            let source = &self.sources[place];
            if self.foreign_to(source).is_some() {
                continue;
            }
            match (source.fate(hash, height).await, &answer) {
                (Ok(fate @ (Fate::InChain { .. } | Fate::Orphaned)), _) => return Ok(fate),
                (Ok(Fate::Missing), _) => answer = Some(Ok(Fate::Missing)),
                (Err(error @ FateError::Unreachable(_)), None | Some(Err(_))) => {
                    answer = Some(Err(error));
                }
                (Err(error), None) => answer = Some(Err(error)),
                (Err(_), Some(_)) => {}
            }
        }
        answer.unwrap_or(Err(FateError::NotKnown("no source can tell")))
    }

    pub(crate) fn refresh(&self) {
        self.sources.iter().for_each(Running::refresh);
    }

    /// That of the source in use; before there is one, what is wrong with each.
    pub(crate) fn health(&self) -> Health {
        if let Some(used) = self.state().used {
            return self.sources[used].board.health();
        }
        let problems: Vec<String> = self
            .source_statuses(None)
            .into_iter()
            .filter_map(|status| {
                Some(format!(
                    "{} {}: {}",
                    status.source, status.address, status.error?
                ))
            })
            .collect();
        Health {
            fresh: false,
            error: (!problems.is_empty()).then(|| problems.join("; ")),
            last_success: None,
        }
    }

    /// That of the source in use, with what was published and where blocks went.
    pub(crate) fn status(&self) -> Status {
        let used = self.state().used;
        self.board
            .status_with(self.health(), self.source_statuses(used))
    }

    fn source_statuses(&self, used: Option<usize>) -> Vec<SourceStatus> {
        let mined = self.board.source_status().height;
        (0..)
            .zip(&self.sources)
            .map(|(place, source)| {
                let status = source.board.source_status();
                let behind = status.height.is_some() && status.height < mined;
                let error = match (self.foreign_to(source), status.error) {
                    (Some(chain), _) => Some(format!(
                        "never used: it is not on {chain}, the chain that is mined on"
                    )),
                    (None, None) if behind => Some("behind what is mined on".to_owned()),
                    (None, error) => error,
                };
                SourceStatus {
                    in_use: used == Some(place),
                    error,
                    ..status
                }
            })
            .collect()
    }

    /// The chain that the source is not on but should be.
    fn foreign_to(&self, source: &Running) -> Option<Network> {
        let network = source.board.network()?;
        self.chain().filter(|chain| *chain != network)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn origin(&self, id: u64) -> Option<Origin> {
        let mut newest_first = self.origins.iter().rev();
        newest_first.find(|origin| origin.id == id).copied()
    }
}

/// The answer that says most: a block that one source takes is a block, whatever the others think. Refused it is only where
/// all have refused it: one that is away may be the only one whose chain it fits.
async fn best(mut answers: mpsc::Receiver<Submission>) -> Submission {
    let mut best: Option<Submission> = None;
    while let Some(answer) = answers.recv().await {
        if answer == Submission::Accepted {
            return answer;
        }
        if best.as_ref().is_none_or(|best| rank(&answer) > rank(best)) {
            best = Some(answer);
        }
    }
    best.unwrap_or_else(|| {
        Submission::Unreachable("no source can take a block that another made".to_owned())
    })
}

fn rank(submission: &Submission) -> u8 {
    match submission {
        Submission::Rejected(_) => 0,
        Submission::Unreachable(_) => 1,
        Submission::Unknown(_) => 2,
        Submission::Accepted => 3,
    }
}
