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
    parse_request, parse_server_message,
};
use work::Difficulty;

use crate::totals::{Reason, Totals};
use jobs::Jobs;
use requests::{Answered, Asked, Requests};

/// The longest name of a miner, or of its software, that is kept; longer ones are cut.
const MAX_NAME: usize = 256;

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
                Line::TooLong => self.seen.totals.noticed.oversized_lines += 1,
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

    /// The first name that the pool has authorised.
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

    /// Whether the pool's last line has not ended, so that nothing can be said in between.
    #[must_use]
    pub fn pool_is_within_a_line(&self) -> bool {
        !self.from_pool.is_empty()
    }

    fn request(&mut self, line: &[u8], now: Instant) {
        let (id, kind) = match parse_request(line) {
            Ok(request) => {
                let kind = match request.method {
                    Method::Submit(submit) => {
                        self.seen.totals.submits += 1;
                        let work = self.jobs.work_of(submit.job_id);
                        return self.asked(request.id, Asked::Submit { work }, now);
                    }
                    Method::Authorize { user, .. } => {
                        let user = self.user.is_none().then(|| shortened(user));
                        return self.asked(request.id, Asked::Authorize { user }, now);
                    }
                    Method::Subscribe { user_agent, .. } => {
                        if let Some(name) = user_agent {
                            self.user_agent = Some(shortened(name));
                        }
                        Kind::Subscribe
                    }
                    Method::Configure(_) => Kind::Configure,
                    // An answer to the pool, which it may need or not.
                    Method::Response => return,
                    _ => Kind::Other,
                };
                (request.id, kind)
            }
            // What the pool makes of it is its own affair: some take a share that another would not.
            Err(ParseError {
                id,
                fault: Fault::BadSubmit(_),
            }) => {
                self.seen.totals.submits += 1;
                self.seen.totals.noticed.malformed_lines += 1;
                let work = self.jobs.least();
                return self.asked(id, Asked::Submit { work }, now);
            }
            Err(_) => {
                self.seen.totals.noticed.malformed_lines += 1;
                return;
            }
        };
        self.asked(id, Asked::Else(kind), now);
    }

    fn asked(&mut self, id: Id<'_>, what: Asked, now: Instant) {
        if id.is_absent() || id == Id::NULL {
            return;
        }
        if !self.requests.ask(id, what, now) {
            self.seen.totals.noticed.unmatched += 1;
        }
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
        let Some(Answered { asked, at }) = self.requests.answer(id) else {
            // Some pools say with such a line that they heard something that needs no answer.
            if !id.is_absent() && id != Id::NULL {
                self.seen.totals.noticed.unmatched += 1;
            }
            return;
        };
        let granted = matches!(outcome, Ok(Value::Bool(true)));
        let kind = match asked {
            Asked::Submit { work } => {
                self.share_answered(outcome, work);
                Kind::Submit
            }
            Asked::Authorize { user } => {
                if granted && self.user.is_none() {
                    self.user = user;
                }
                Kind::Authorize
            }
            Asked::Else(kind) => kind,
        };
        let took = now.saturating_duration_since(at);
        self.seen.answers.push((kind, took));
    }

    fn share_answered(&mut self, outcome: Result<Value<'_>, RpcError<'_>>, work: u128) {
        let totals = &mut self.seen.totals;
        let reason = match outcome {
            // Some pools answer with a status instead of `true`; only `false` and nothing are a refusal.
            Ok(Value::Bool(false) | Value::Null) => Reason::Other,
            Ok(_) => {
                totals.accepted += 1;
                totals.work = totals.work.saturating_add(work);
                return;
            }
            Err(error) => Reason::of_code(error.code),
        };
        totals.rejected[reason as usize] += 1;
    }
}

/// A name as far as it is kept.
fn shortened(name: Text<'_>) -> Box<str> {
    let mut bytes = 0;
    name.chars()
        .take_while(|character| {
            bytes += character.len_utf8();
            bytes <= MAX_NAME
        })
        .collect::<String>()
        .into_boxed_str()
}

#[cfg(test)]
mod tests;
