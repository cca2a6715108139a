//! What a miner asks, and what it is answered. Every request with an id gets an answer.

use stratum_v1::{
    Configure, ConfigureReply, ErrorCode, Fault, Id, Method, ParseError, Text, parse_request,
    write_configure_result, write_error, write_get_version, write_result, write_result_true,
    write_set_version_mask, write_subscribe_result,
};
use work::{Difficulty, Target};

use super::worker::Worker;
use super::{
    Acknowledge, EXTRANONCE1_SIZE, EndReason, Now, Output, RejectReason, RequestKind, Session,
};

/// The longest user name; firmware of the field takes no longer one, and SV2 takes 255 bytes.
const MAX_USER_NAME: usize = 127;

/// Names that one connection may authorise.
const MAX_WORKERS: usize = 64;

/// Of a user agent, in bytes; more of it is not kept.
const MAX_USER_AGENT: usize = 128;

const VERSION: &str = concat!("hashpool-translator/", env!("CARGO_PKG_VERSION"));

impl Session {
    /// Handles one line of the miner.
    pub fn handle_line(&mut self, now: Now, line: &[u8], out: &mut Output) {
        self.last_line = now.instant;
        let (said, forwarded) = (out.bytes.len(), self.tally.forwarded);
        let kind = match parse_request(line) {
            Ok(request) => {
                let kind = RequestKind::of(&request.method);
                self.handle_request(now, request.id, request.method, out);
                kind
            }
            Err(error) => {
                let kind = RequestKind::of_malformed(&error);
                self.handle_malformed(error, out);
                kind
            }
        };
        let later =
            self.settings.acknowledge == Acknowledge::Upstream && self.tally.forwarded > forwarded;
        if out.bytes.len() > said && !later {
            out.answered.count(kind);
        }
    }

    fn handle_request(&mut self, now: Now, id: Id<'_>, method: Method<'_>, out: &mut Output) {
        match method {
            Method::Submit(submit) => self.handle_submit(now, id, &submit, out),
            Method::Subscribe { user_agent, .. } => self.handle_subscribe(now, id, user_agent, out),
            Method::Authorize { user, password } => {
                self.handle_authorize(now, id, user, password, out)
            }
            Method::Configure(configure) => self.handle_configure(now, id, configure, out),
            Method::SuggestDifficulty(difficulty) => {
                self.handle_suggestion(now, id, Difficulty::new(difficulty), out)
            }
            Method::SuggestTarget(target) => {
                let difficulty = Target::from_le_bytes(target).map(|target| target.difficulty());
                self.handle_suggestion(now, id, difficulty, out);
            }
            // Never needed, since extranonce1 is ours; miners that ask are told that it would be sent.
            Method::ExtranonceSubscribe => accept(out, id),
            Method::MultiVersion { versions } => self.handle_multi_version(id, versions, out),
            Method::Ping => answer(out, id, |bytes| write_result(bytes, id, "\"pong\"")),
            Method::GetTransactions => answer(out, id, |bytes| write_result(bytes, id, "[]")),
            Method::GetVersion => answer(out, id, |bytes| write_get_version(bytes, id, VERSION)),
            Method::Response => {}
            // Here nobody reads it.
            Method::ShowMessage => accept(out, id),
            Method::Reconnect => refuse(out, id, ErrorCode::Other, "a server does not reconnect"),
            Method::Unknown { .. } => refuse(out, id, ErrorCode::Other, "unknown method"),
        }
    }

    fn handle_malformed(&mut self, ParseError { id, fault }: ParseError<'_>, out: &mut Output) {
        refuse(out, id, ErrorCode::Other, &fault.to_string());
        match fault {
            Fault::BadSubmit(_) => {
                self.tally.submitted += 1;
                self.tally.reject(RejectReason::Malformed);
            }
            Fault::BadParameters(_) => {}
            _ => {
                self.malformed_lines += 1;
                if self.malformed_lines > self.settings.max_malformed_lines {
                    out.end = Some(EndReason::MalformedLines);
                }
            }
        }
    }

    fn handle_subscribe(
        &mut self,
        now: Now,
        id: Id<'_>,
        user_agent: Option<Text<'_>>,
        out: &mut Output,
    ) {
        self.subscribed = true;
        let user_agent = user_agent.map(|name| name.decode());
        let need = user_agent
            .as_ref()
            .and_then(|name| self.settings.user_agents.minimum(name));
        self.user_agent = user_agent.map(|name| shown(&name));
        self.wishes.need(need);
        let (extranonce1, size) = (self.extranonce1, self.settings.extranonce2_size);
        let mut subscription = [0; 2 * EXTRANONCE1_SIZE];
        // The buffer is of the right size, and hexadecimal is UTF-8.
        let _ = hex::encode_to_slice(extranonce1, &mut subscription);
        let subscription = std::str::from_utf8(&subscription).unwrap_or_default();
        answer(out, id, |bytes| {
            write_subscribe_result(bytes, id, subscription, &extranonce1, size)
        });
        self.open_or_update(now, out);
    }

    fn handle_authorize(
        &mut self,
        now: Now,
        id: Id<'_>,
        user: Text<'_>,
        password: Option<Text<'_>>,
        out: &mut Output,
    ) {
        let name = user.decode();
        if name.is_empty() {
            return refuse(out, id, ErrorCode::Unauthorized, "user name is empty");
        }
        if name.len() > MAX_USER_NAME {
            return refuse(
                out,
                id,
                ErrorCode::Unauthorized,
                "user name is longer than 127 bytes",
            );
        }
        if self.settings.user_identity.of(&name).is_none() {
            return refuse(
                out,
                id,
                ErrorCode::Unauthorized,
                "user name is too long for the pool's identity",
            );
        }
        if self.settings.channel_identity(&name).is_none() {
            return refuse(
                out,
                id,
                ErrorCode::Unauthorized,
                "user name says no account",
            );
        }
        if !self.workers.iter().any(|known| *known.name == *name) {
            if self.workers.len() == MAX_WORKERS {
                return refuse(
                    out,
                    id,
                    ErrorCode::Unauthorized,
                    "too many workers on this connection",
                );
            }
            let of_shares = self.settings.worker_name(&name);
            self.workers.reserve_exact(1);
            self.workers.push(Worker {
                name: name.into(),
                of_shares,
            });
        }
        if let Some(password) = password {
            self.wishes.read_password(&password.decode());
        }
        accept(out, id);
        self.open_or_update(now, out);
    }

    /// What was said may let the channel open, or be worth telling where it is open.
    fn open_or_update(&mut self, now: Now, out: &mut Output) {
        self.open_if_ready(now, out);
        self.pass_on_wishes(now, out);
    }

    fn handle_configure(
        &mut self,
        now: Now,
        id: Id<'_>,
        configure: Configure<'_>,
        out: &mut Output,
    ) {
        let version_rolling = configure.version_rolling.map(|wanted| {
            let mask = wanted.mask & self.settings.version_mask;
            let granted =
                Some(mask).filter(|mask| *mask != 0 && mask.count_ones() >= wanted.min_bit_count);
            self.grant(granted);
            self.told.version_mask = granted;
            granted
        });
        let minimum_difficulty = configure
            .minimum_difficulty
            .map(|minimum| minimum.is_some_and(|minimum| self.wishes.limit(minimum)));
        let reply = ConfigureReply {
            version_rolling,
            minimum_difficulty,
            subscribe_extranonce: configure.subscribe_extranonce.then_some(true),
            info: configure.info.then_some(true),
        };
        answer(out, id, |bytes| {
            write_configure_result(bytes, id, &reply, configure.unknown())
        });
        self.tell_version_mask(out);
        self.pass_on_wishes(now, out);
    }

    /// What firmware of that time waits for is a `mining.set_version_mask`.
    fn handle_multi_version(&mut self, id: Id<'_>, versions: u64, out: &mut Output) {
        accept(out, id);
        let mask = self.settings.version_mask;
        if versions > 1 && mask != 0 {
            self.grant(Some(mask));
            self.told.version_mask = None;
            self.tell_version_mask(out);
        }
    }

    /// The bits that the miner may roll from now on, also on the jobs that it has.
    fn grant(&mut self, mask: Option<u32>) {
        self.negotiated_mask = mask;
        self.recent
            .roll_with(mask.unwrap_or(self.settings.version_mask));
    }

    /// Its job may allow less than the miner was granted.
    fn tell_version_mask(&mut self, out: &mut Output) {
        let Some(granted) = self.negotiated_mask else {
            return;
        };
        let allowed = self
            .recent
            .newest()
            .is_none_or(|newest| newest.job.version_rolling);
        let mask = if allowed { granted } else { 0 };
        if self.told.version_mask != Some(mask) {
            write_set_version_mask(&mut out.bytes, mask);
            self.told.version_mask = Some(mask);
        }
    }

    fn handle_suggestion(
        &mut self,
        now: Now,
        id: Id<'_>,
        difficulty: Result<Difficulty, work::Error>,
        out: &mut Output,
    ) {
        match difficulty {
            Ok(difficulty) if self.wishes.suggest(difficulty) => accept(out, id),
            Ok(_) => refuse(out, id, ErrorCode::Other, "no miner is that fast"),
            Err(error) => refuse(out, id, ErrorCode::Other, &error.to_string()),
        }
        self.pass_on_wishes(now, out);
    }
}

/// A name as far as it is shown.
fn shown(name: &str) -> Box<str> {
    let mut size = 0;
    let short = |letter: &char| {
        size += letter.len_utf8();
        size <= MAX_USER_AGENT
    };
    name.chars().take_while(short).collect()
}

/// Answers `true`.
pub(super) fn accept(out: &mut Output, id: Id<'_>) {
    answer(out, id, |bytes| write_result_true(bytes, id));
}

/// Answers with an error.
pub(super) fn refuse(out: &mut Output, id: Id<'_>, code: ErrorCode, message: &str) {
    answer(out, id, |bytes| write_error(bytes, id, code, message));
}

/// Who gives no id wants no answer (JSON-RPC calls it a notification).
fn answer(out: &mut Output, id: Id<'_>, write: impl FnOnce(&mut Vec<u8>)) {
    if !id.is_absent() {
        write(&mut out.bytes);
    }
}
