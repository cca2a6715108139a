//! One connection to a Stratum V1 server as a state machine: lines and shares go in, lines and events come out.
//!
//! The connection's task drives it. It opens no socket and reads no clock, and no server can make it panic or grow.

use std::{
    collections::VecDeque,
    io::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use stratum_v1::{
    ConfigureResult, ErrorCode, ExtranonceBytes, Notify, RpcError, ServerMessage, SubscribeResult,
    Text, Value,
};
use work::Difficulty;

use crate::job::{BIP320_MASK, Claims, Epoch, Share, Template, Work};
use crate::simulate::Kind;

/// Shares that may wait for their answer; more are not taken until answers come.
pub(crate) const MAX_UNANSWERED: usize = 256;

/// Lines that may make no sense before the connection is given up.
const MAX_MALFORMED: u32 = 32;

/// The longest job id that is worth sending back, in bytes. Real ones have 4 to 16.
const MAX_JOB_ID: usize = 256;

/// How much of a server's words is kept, in characters.
const MAX_MESSAGE: usize = 200;

const USER_AGENT: &str = concat!("hashpool-miner/", env!("CARGO_PKG_VERSION"));

/// What a session says for its miner.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// User name for `mining.authorize` and `mining.submit`.
    pub(crate) user: String,
    /// Password for `mining.authorize`.
    pub(crate) password: String,
    /// Whether to ask for version rolling.
    pub(crate) version_rolling: bool,
    /// The difficulty to suggest.
    pub(crate) suggest_difficulty: Option<Difficulty>,
}

/// A conversation with one server, from its first byte to its last.
#[derive(Debug)]
pub(crate) struct Session {
    settings: Settings,
    claims: Claims,
    authorized: bool,
    extranonce: Option<Extranonce>,
    /// Applies from the next notify.
    next_extranonce: Option<Extranonce>,
    /// The bits that the server lets us roll; none until it has said so.
    version_mask: Option<u32>,
    /// Applies from the next notify. A server that says nothing means 1.
    difficulty: Difficulty,
    epoch: Epoch,
    work: Option<Arc<Work>>,
    unanswered: VecDeque<Unanswered>,
    next_id: u64,
    malformed: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Extranonce {
    extranonce1: ExtranonceBytes,
    extranonce2_size: usize,
}

/// A request that the server has not answered.
#[derive(Debug)]
struct Unanswered {
    id: u64,
    since: Instant,
    request: Request,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Configure,
    Subscribe,
    Authorize,
    SuggestDifficulty,
    Submit(Kind),
}

/// The share that an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answered {
    /// What the share was.
    pub(crate) kind: Kind,
    /// How long the answer took.
    pub(crate) after: Duration,
}

/// What came of a line.
#[derive(Debug)]
pub(crate) enum Event {
    /// Hash this from now on.
    Work(Arc<Work>),
    /// A share counts.
    Accepted(Answered),
    /// A share does not count, and the server's words for why.
    Rejected(Answered, Reason, String),
    /// The server asks for another connection after so many seconds.
    Reconnect(u64),
    /// Words for the operator.
    Message(String),
    /// A line that makes no sense, and what is wrong with it.
    Malformed(stratum_v1::Fault),
}

/// Why a server rejected a share, by the usual codes of Stratum V1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// 21: the job is unknown or stale.
    JobNotFound,
    /// 22
    Duplicate,
    /// 23: the hash is above the target.
    LowDifficulty,
    /// 24
    Unauthorized,
    /// 25
    NotSubscribed,
    /// 20 and everything else.
    Other,
}

/// What became of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Submission {
    /// It is on its way.
    Sent,
    /// The server has dropped its job: not sent.
    Stale,
}

/// The server's fault that ends a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SessionError {
    /// `mining.subscribe` failed.
    #[error("the server refused the subscription: {0}")]
    Subscribe(String),
    /// `mining.authorize` failed.
    #[error("the server did not authorize this user: {0}")]
    Authorize(String),
    /// Line after line that is not Stratum V1.
    #[error("the server does not speak Stratum V1: {0}")]
    Malformed(stratum_v1::Fault),
}

impl Session {
    /// A session before its first byte. `claims` is the one of all the miner's sessions.
    pub(crate) fn new(settings: Settings, claims: Claims) -> Self {
        Self {
            settings,
            claims,
            authorized: false,
            extranonce: None,
            next_extranonce: None,
            version_mask: None,
            difficulty: Difficulty::ONE,
            epoch: Epoch::default(),
            work: None,
            unanswered: VecDeque::new(),
            next_id: 1,
            malformed: 0,
        }
    }

    /// Writes what a client says first. The subscription does not wait for the answer to `mining.configure`, since old
    /// servers never give one.
    pub(crate) fn start(&mut self, now: Instant, out: &mut Vec<u8>) {
        if self.settings.version_rolling {
            let id = self.ask(Request::Configure, now);
            stratum_v1::write_configure(out, id, BIP320_MASK, 2);
        }
        let id = self.ask(Request::Subscribe, now);
        stratum_v1::write_subscribe(out, id, USER_AGENT);
    }

    /// Takes one line of the server, and writes what is to be answered.
    ///
    /// # Errors
    /// Where the session cannot go on; the connection is to be closed.
    pub(crate) fn handle_line(
        &mut self,
        line: &[u8],
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event>, SessionError> {
        let message = match stratum_v1::parse_server_message(line) {
            Ok(message) => message,
            Err(error) => return self.malformed(error.fault).map(Some),
        };
        match message {
            ServerMessage::Notify(notify) => self.notify(&notify),
            ServerMessage::SetDifficulty(value) => {
                if let Ok(difficulty) = Difficulty::new(value) {
                    self.difficulty = difficulty;
                }
                Ok(None)
            }
            ServerMessage::SetExtranonce {
                extranonce1,
                extranonce2_size,
            } => {
                self.next_extranonce = Some(Extranonce {
                    extranonce1,
                    extranonce2_size,
                });
                Ok(None)
            }
            ServerMessage::SetVersionMask(mask) => Ok(self.set_version_mask(mask)),
            ServerMessage::ShowMessage(text) => Ok(Some(Event::Message(printable(text)))),
            ServerMessage::Reconnect { wait_seconds, .. } => {
                Ok(Some(Event::Reconnect(wait_seconds)))
            }
            ServerMessage::GetVersion { id } => {
                if !id.is_absent() {
                    stratum_v1::write_get_version(out, id, USER_AGENT);
                }
                Ok(None)
            }
            ServerMessage::Unknown { id, .. } => {
                if id.number().is_some() {
                    stratum_v1::write_error(out, id, ErrorCode::Other, "unknown method");
                }
                Ok(None)
            }
            ServerMessage::Response { id, outcome } => {
                // Answers to nothing that was asked are of no use to anyone.
                match id.number().and_then(|id| self.answered(id)) {
                    Some(asked) => self.response(&asked, outcome, now, out),
                    None => Ok(None),
                }
            }
        }
    }

    /// Whether another share may be sent now.
    pub(crate) fn can_submit(&self) -> bool {
        self.unanswered.len() < MAX_UNANSWERED
    }

    /// Sends a share, unless the server has dropped its job.
    pub(crate) fn submit(&mut self, share: &Share, now: Instant, out: &mut Vec<u8>) -> Submission {
        let mask = self.version_mask.unwrap_or(0);
        if !self.authorized || share.work.epoch != self.epoch || share.version_bits & !mask != 0 {
            return Submission::Stale;
        }
        self.submit_as(Kind::Good, share, &share.work.job_id, now, out);
        Submission::Sent
    }

    /// Sends a share for whichever job, whatever the server will make of it.
    pub(crate) fn submit_as(
        &mut self,
        kind: Kind,
        share: &Share,
        job_id: &str,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let id = self.ask(Request::Submit(kind), now);
        stratum_v1::write_submit(
            out,
            id,
            &stratum_v1::Share {
                worker: &self.settings.user,
                job_id,
                extranonce2: &share.extranonce2,
                ntime: share.work.template().ntime,
                nonce: share.nonce,
                version_bits: self.version_mask.map(|_| share.version_bits),
            },
        );
    }

    /// Sends a `mining.submit` that says nothing.
    pub(crate) fn submit_malformed(&mut self, now: Instant, out: &mut Vec<u8>) {
        let id = self.ask(Request::Submit(Kind::Malformed), now);
        // Writing to a Vec cannot fail.
        let _ = writeln!(out, r#"{{"id":{id},"method":"mining.submit","params":[]}}"#);
    }

    /// Since when the server owes an answer; extensions may go unanswered.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        self.unanswered
            .iter()
            .find(|unanswered| {
                !matches!(
                    unanswered.request,
                    Request::Configure | Request::SuggestDifficulty
                )
            })
            .map(|unanswered| unanswered.since)
    }

    /// Shares that were sent and have no answer.
    pub(crate) fn unanswered_shares(&self) -> usize {
        self.unanswered
            .iter()
            .filter(|unanswered| matches!(unanswered.request, Request::Submit(_)))
            .count()
    }

    fn ask(&mut self, request: Request, since: Instant) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.unanswered.push_back(Unanswered { id, since, request });
        id
    }

    fn answered(&mut self, id: u64) -> Option<Unanswered> {
        // Servers answer in order, or nearly so: what is looked for is at the front.
        let index = self.unanswered.iter().position(|asked| asked.id == id)?;
        self.unanswered.remove(index)
    }

    fn response(
        &mut self,
        asked: &Unanswered,
        outcome: Result<Value<'_>, RpcError<'_>>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event>, SessionError> {
        match asked.request {
            Request::Configure => Ok(outcome
                .ok()
                .and_then(ConfigureResult::parse)
                .and_then(|result| result.version_mask)
                .and_then(|mask| self.set_version_mask(mask))),
            Request::Subscribe => {
                let result = outcome.map_err(|error| SessionError::Subscribe(words(&error)))?;
                let result = SubscribeResult::parse(result).ok_or_else(|| {
                    SessionError::Subscribe("its answer holds no extranonce".to_owned())
                })?;
                self.extranonce = Some(Extranonce {
                    extranonce1: result.extranonce1,
                    extranonce2_size: result.extranonce2_size,
                });
                let id = self.ask(Request::Authorize, now);
                let Settings { user, password, .. } = &self.settings;
                stratum_v1::write_authorize(out, id, user, password);
                Ok(None)
            }
            Request::Authorize => {
                match outcome {
                    Ok(Value::Bool(true)) => {}
                    Ok(_) => return Err(SessionError::Authorize("no reason given".to_owned())),
                    Err(error) => return Err(SessionError::Authorize(words(&error))),
                }
                self.authorized = true;
                if let Some(difficulty) = self.settings.suggest_difficulty {
                    let id = self.ask(Request::SuggestDifficulty, now);
                    stratum_v1::write_suggest_difficulty(out, id, difficulty.value());
                }
                // A job may have come before the answer.
                Ok(self.work.clone().map(Event::Work))
            }
            Request::SuggestDifficulty => Ok(None),
            Request::Submit(kind) => {
                let answered = Answered {
                    kind,
                    after: now.saturating_duration_since(asked.since),
                };
                Ok(Some(match outcome {
                    Ok(Value::Bool(true)) => Event::Accepted(answered),
                    Ok(_) => Event::Rejected(answered, Reason::Other, "no reason given".to_owned()),
                    Err(error) => {
                        Event::Rejected(answered, Reason::from_code(error.code), words(&error))
                    }
                }))
            }
        }
    }

    fn notify(&mut self, notify: &Notify<'_>) -> Result<Option<Event>, SessionError> {
        // Without a subscription there is no coinbase to build.
        let Some(current) = self.extranonce else {
            return Ok(None);
        };
        let job_id = notify.job_id.decode();
        let (mut coinbase_start, mut coinbase_end) = (Vec::new(), Vec::new());
        if job_id.len() > MAX_JOB_ID
            || notify.coinb1.decode_hex(&mut coinbase_start).is_none()
            || notify.coinb2.decode_hex(&mut coinbase_end).is_none()
        {
            let fault = stratum_v1::Fault::BadParameters("not a mining.notify");
            return self.malformed(fault).map(Some);
        }
        let extranonce = self.next_extranonce.take().unwrap_or(current);
        if notify.clean_jobs || extranonce != current {
            self.epoch = Epoch::default();
        }
        self.extranonce = Some(extranonce);
        coinbase_start.extend_from_slice(&extranonce.extranonce1);
        let template = Template {
            coinbase_start,
            coinbase_end,
            extranonce2_size: extranonce.extranonce2_size,
            merkle_path: notify.merkle_path().collect(),
            prev_hash: notify.prev_hash,
            version: notify.version,
            version_mask: self.version_mask.unwrap_or(0),
            ntime: notify.ntime,
            nbits: notify.nbits,
        };
        Ok(self.set_work(job_id.into_owned(), self.difficulty, template))
    }

    /// BIP 310: a mask is in force at once, also for the current job.
    fn set_version_mask(&mut self, mask: u32) -> Option<Event> {
        if !self.settings.version_rolling {
            return None;
        }
        let mask = mask & BIP320_MASK;
        self.version_mask = Some(mask);
        let work = self.work.clone()?;
        let template = Template {
            version_mask: mask,
            ..work.template().clone()
        };
        self.set_work(work.job_id.clone(), work.difficulty, template)
    }

    fn set_work(
        &mut self,
        job_id: String,
        difficulty: Difficulty,
        template: Template,
    ) -> Option<Event> {
        let work = Arc::new(Work::new(
            job_id,
            self.epoch.clone(),
            difficulty,
            template,
            &self.claims,
            self.work.as_deref(),
        ));
        self.work = Some(work.clone());
        self.authorized.then_some(Event::Work(work))
    }

    fn malformed(&mut self, fault: stratum_v1::Fault) -> Result<Event, SessionError> {
        self.malformed += 1;
        if self.malformed > MAX_MALFORMED {
            return Err(SessionError::Malformed(fault));
        }
        Ok(Event::Malformed(fault))
    }
}

impl Reason {
    fn from_code(code: i64) -> Self {
        match code {
            21 => Self::JobNotFound,
            22 => Self::Duplicate,
            23 => Self::LowDifficulty,
            24 => Self::Unauthorized,
            25 => Self::NotSubscribed,
            _ => Self::Other,
        }
    }
}

fn words(error: &RpcError<'_>) -> String {
    match error.message {
        Some(message) => printable(message),
        None => format!("code {}", error.code),
    }
}

/// A server's words, cut to a length and without what could confuse a terminal.
fn printable(text: Text<'_>) -> String {
    text.chars()
        .take(MAX_MESSAGE)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests;
