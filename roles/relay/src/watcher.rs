//! What the relay understands of the bytes that it passes on.
//!
//! A state machine without I/O and without a clock. It is shown a copy of both directions, cut anywhere, and says what was
//! counted; nothing that it makes of them can change a byte. What it keeps of one connection is bounded, whatever miner and
//! pool send: an unfinished line of each, requests that were not answered, jobs, and two names.

mod glance;
mod jobs;
mod requests;

use std::time::{Duration, Instant};

use stratum_v1::{
    Fault, Id, Line, LineBuffer, Method, Notify, ParseError, RpcError, ServerMessage, Text, Value,
    parse_request_strictly, parse_server_message,
};
use work::Difficulty;

use crate::totals::{Reason, Totals};
use jobs::Jobs;
use requests::{Answered, Other, Requests};

/// The longest name of a miner, or of its software, that is shown; longer ones are cut.
const MAX_NAME: usize = 256;

/// Of a name that is longer than twice this so much of its beginning and of its end is kept, which patterns look at.
const NAME_ENDS: usize = 1_024;

/// More hashes than anybody has for a share: several times those of a block. What is claimed beyond is not billed.
const MOST_WORK: u128 = 1 << 80;

/// Kinds of requests, as metrics tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `mining.subscribe`
    Subscribe,
    /// `mining.authorize`
    Authorize,
    /// `mining.configure`
    Configure,
    /// `mining.submit`
    Submit,
    /// Any other.
    Other,
}

impl Kind {
    /// All of them, by their places in tables.
    pub const ALL: [Self; 5] = [
        Self::Subscribe,
        Self::Authorize,
        Self::Configure,
        Self::Submit,
        Self::Other,
    ];

    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Subscribe => "mining.subscribe",
            Self::Authorize => "mining.authorize",
            Self::Configure => "mining.configure",
            Self::Submit => "mining.submit",
            Self::Other => "other",
        }
    }
}

/// The longest lines that are looked at, in bytes. Longer ones are skipped.
#[derive(Debug, Clone, Copy)]
pub struct LineLimits {
    /// Of a miner.
    pub miner: usize,
    /// Of a pool, whose jobs hold the whole coinbase.
    pub pool: usize,
}

/// Watches one connection.
#[derive(Debug)]
pub struct Watcher {
    from_miner: LineBuffer,
    from_pool: LineBuffer,
    requests: Requests,
    jobs: Jobs,
    /// Since [`Watcher::take`] was called last.
    seen: Seen,
    user: Option<Box<str>>,
    user_agent: Option<Box<str>>,
    difficulty: Option<Difficulty>,
}

/// What was counted since the last time.
#[derive(Debug, Default, PartialEq)]
pub struct Seen {
    /// Bytes and pauses are not the watcher's to count.
    pub totals: Totals,
    /// How long answers took. At most a few: those of one wake-up.
    pub answers: Vec<(Kind, Duration)>,
}

impl Watcher {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(limits: LineLimits) -> Self {
        Self {
            from_miner: LineBuffer::new(limits.miner),
            from_pool: LineBuffer::new(limits.pool),
            requests: Requests::default(),
            jobs: Jobs::default(),
            seen: Seen::default(),
            user: None,
            user_agent: None,
            difficulty: None,
        }
    }

    /// The miner has said something.
    pub fn miner_said(&mut self, bytes: &[u8], now: Instant) {
        let mut buffer = std::mem::take(&mut self.from_miner);
        let mut lines = buffer.lines(bytes);
        while let Some(line) = lines.next() {
            match line {
                Line::Whole(line) => self.request(line, now),
                Line::TooLong => {
                    self.seen.totals.noticed.oversized_lines += 1;
                    self.requests.unreadable(None);
                }
            }
        }
        drop(lines);
        self.from_miner = buffer;
    }

    /// The pool has said something.
    pub fn pool_said(&mut self, bytes: &[u8], now: Instant) {
        let mut buffer = std::mem::take(&mut self.from_pool);
        let mut lines = buffer.lines(bytes);
        while let Some(line) = lines.next() {
            match line {
                Line::Whole(line) => self.message(line, now),
                Line::TooLong => self.seen.totals.noticed.oversized_lines += 1,
            }
        }
        drop(lines);
        self.from_pool = buffer;
    }

    /// What was counted since this was asked last.
    pub fn take(&mut self) -> Seen {
        std::mem::take(&mut self.seen)
    }

    /// The first name that the pool has authorised, for patterns to be looked for in.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// What the miner calls itself.
    #[must_use]
    pub fn user_agent(&self) -> Option<&str> {
        self.user_agent.as_deref()
    }

    /// What the miner was told last.
    #[must_use]
    pub fn difficulty(&self) -> Option<Difficulty> {
        self.difficulty
    }

    /// Since when the miner has waited for an answer, if it does.
    #[must_use]
    pub fn waiting_since(&self) -> Option<Instant> {
        self.requests.oldest()
    }

    fn request(&mut self, line: &[u8], now: Instant) {
        let request = match parse_request_strictly(line) {
            Ok(request) => request,
            // What the pool makes of it is its own affair: some take a share that another would not.
            Err(ParseError {
                id,
                fault: Fault::BadSubmit(_),
            }) => {
                self.seen.totals.noticed.malformed_lines += 1;
                return self.submitted(id, self.jobs.least(), now);
            }
            Err(_) => {
                self.seen.totals.noticed.malformed_lines += 1;
                return self.requests.unreadable(Some(line.len()));
            }
        };
        let (kind, user) = match request.method {
            Method::Submit(submit) => {
                let work = self.jobs.work_of(submit.job_id);
                return self.submitted(request.id, work, now);
            }
            Method::Authorize { user, .. } => {
                let user = self.user.is_none().then(|| without_middle(user));
                (Kind::Authorize, user)
            }
            Method::Subscribe { user_agent, .. } => {
                if let Some(name) = user_agent {
                    self.user_agent = Some(shortened(name.chars()));
                }
                (Kind::Subscribe, None)
            }
            Method::Configure(_) => (Kind::Configure, None),
            // An answer to the pool, which it may need or not.
            Method::Response => return,
            _ => (Kind::Other, None),
        };
        if !request.id.is_absent() && request.id != Id::NULL {
            let all_are_followed = self.requests.ask(request.id, Other { kind, user }, now);
            self.seen.totals.noticed.unmatched += u64::from(!all_are_followed);
        }
    }

    fn submitted(&mut self, id: Id<'_>, work: u128, now: Instant) {
        self.seen.totals.submits += 1;
        let all_are_followed = self.requests.submit(id, work, now);
        self.seen.totals.noticed.unmatched += u64::from(!all_are_followed);
    }

    fn message(&mut self, line: &[u8], now: Instant) {
        if let Some(job) = glance::job(line) {
            self.seen.totals.notifications += 1;
            return self.jobs.notified(jobs::key_of(job.id), job.clean);
        }
        match parse_server_message(line) {
            Ok(ServerMessage::Response { id, outcome }) => self.answered(id, outcome, now),
            Ok(ServerMessage::Notify(job)) => self.notified(job),
            Ok(ServerMessage::SetDifficulty(difficulty)) => {
                if let Ok(difficulty) = Difficulty::new(difficulty) {
                    self.seen.totals.noticed.difficulty_changes += 1;
                    self.difficulty = Some(difficulty);
                    self.jobs.set_difficulty(difficulty);
                }
            }
            Ok(_) => {}
            Err(_) => self.seen.totals.noticed.malformed_lines += 1,
        }
    }

    fn notified(&mut self, job: Notify<'_>) {
        self.seen.totals.notifications += 1;
        self.jobs.notified(jobs::key(job.job_id), job.clean_jobs);
    }

    fn answered(&mut self, id: Id<'_>, outcome: Result<Value<'_>, RpcError<'_>>, now: Instant) {
        // Some pools answer with a status instead of `true`; only `false` and nothing are a refusal.
        let accepts = !matches!(outcome, Ok(Value::Bool(false) | Value::Null) | Err(_));
        let (kind, at) = match self.requests.answer(id, accepts) {
            Some(Answered::Share { work, at }) => {
                self.share_answered(outcome.err(), accepts, work);
                (Kind::Submit, at)
            }
            Some(Answered::UnfollowedShare { was_read }) => {
                self.seen.totals.submits += u64::from(!was_read);
                return self.share_answered(None, true, self.jobs.least());
            }
            Some(Answered::Other { asked, at }) => {
                if accepts && self.user.is_none() {
                    self.user = asked.user;
                }
                (asked.kind, at)
            }
            None => {
                // Some pools say with such a line that they heard something that needs no answer.
                if !id.is_absent() && id != Id::NULL {
                    self.seen.totals.noticed.unmatched += 1;
                }
                return;
            }
        };
        let took = now.saturating_duration_since(at);
        self.seen.answers.push((kind, took));
    }

    fn share_answered(&mut self, error: Option<RpcError<'_>>, accepted: bool, work: u128) {
        let totals = &mut self.seen.totals;
        if !accepted {
            let reason = error.map_or(Reason::Other, |error| Reason::of_code(error.code));
            totals.rejected[reason as usize] += 1;
            return;
        }
        totals.accepted += 1;
        if work <= MOST_WORK {
            totals.work = totals.work.saturating_add(work);
        } else {
            totals.noticed.implausible_shares += 1;
        }
    }
}

/// A name that ends are looked for in, and nothing between them.
fn without_middle(name: Text<'_>) -> Box<str> {
    let name = name.decode();
    if name.len() <= 2 * NAME_ENDS {
        return name.into();
    }
    let boundary = |at: &usize| name.is_char_boundary(*at);
    let beginning = (0..=NAME_ENDS).rev().find(boundary).unwrap_or_default();
    let end = (name.len() - NAME_ENDS..=name.len()).find(boundary);
    [&name[..beginning], &name[end.unwrap_or(name.len())..]]
        .concat()
        .into()
}

/// A name as far as it is shown.
pub(crate) fn shortened(name: impl Iterator<Item = char>) -> Box<str> {
    let mut bytes = 0;
    name.take_while(|character| {
        bytes += character.len_utf8();
        bytes <= MAX_NAME
    })
    .collect::<String>()
    .into_boxed_str()
}

#[cfg(test)]
mod tests;
