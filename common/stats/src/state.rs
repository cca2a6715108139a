//! What a stats service knows, and how what it is told changes that.
//!
//! A sender's counters are absolute for a session; what has been told twice, late or in part cannot make a sum wrong. A
//! session is folded into the totals of its worker, its peer and its sender when it ends, and counted with its latest
//! counters until then. Everything that has to survive a restart is a [`Document`], and what has changed is remembered
//! until it is taken to be stored.

mod changes;
mod document;
mod forget;
mod names;
mod sender;
#[cfg(test)]
mod tests;
mod totals;
mod workers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use stats_events::{Hello, Numbered, RefusalCode, VERSION};

pub use crate::Now;
use changes::Changes;
pub use changes::{ChannelId, Done, Subject};
pub use document::{Document, Key};
pub use names::PeerName;
pub use sender::{Link, PeerSession, Sender};
pub use totals::Totals;
pub use workers::{Worker, WorkerKey, WorkerSession};

/// Senders that a service knows. Beyond, the one that has been down longest and is not expected makes room for a new one.
const MAX_SENDERS: usize = 64;

/// Documents of forgotten senders that are deleted together with what has changed.
const FORGOTTEN_AT_ONCE: usize = 1000;

/// A sender says something at least so often, whatever it announces.
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(60);
pub(crate) const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(100);

/// Heartbeats after which a silent sender is stale.
const MISSED_HEARTBEATS: u32 = 3;

/// The longest text in a `Hello`.
const MAX_TEXT: usize = 128;

/// Tells one sender from another, over its restarts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SenderKey {
    /// As in `Hello`.
    pub role: String,
    /// As in `Hello`.
    pub name: String,
}

impl fmt::Display for SenderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

/// A sender that was let in. It is no longer of use when another instance has taken its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Whose.
    pub key: SenderKey,
    instance_id: String,
    /// The last event of this instance that is known.
    pub last_sequence: u64,
}

/// Why a sender is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people.
    pub reason: String,
}

/// What an event did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is known now.
    Applied,
    /// It was known, or something newer was.
    Repeated,
    /// It is beyond the bounds of the protocol, or of a kind that is not known; it counts as told.
    Skipped,
    /// Another instance has taken the sender's place: the connection has to end.
    Replaced,
}

/// Everything that is known.
#[derive(Debug, Default)]
pub struct State {
    senders: BTreeMap<SenderKey, Sender>,
    changed: BTreeSet<(SenderKey, Key)>,
    work: Vec<(SenderKey, Done)>,
    ended: Vec<(SenderKey, ChannelId)>,
    /// Senders that were forgotten, and what is still stored of them.
    forgotten: Vec<SenderKey>,
    leftover: VecDeque<(SenderKey, Key)>,
}

impl State {
    /// What was stored before. Nobody is connected.
    #[must_use]
    pub fn restore(
        now: Now,
        documents: impl IntoIterator<Item = (SenderKey, Key, Document)>,
    ) -> Self {
        let mut state = Self::default();
        for (key, place, document) in documents {
            let sender = state.senders.entry(key).or_insert_with(|| Sender::new(now));
            sender.restore(place, document);
        }
        state.senders.values_mut().for_each(Sender::restored);
        state
    }

    /// A sender that is expected, so that one that never connected is shown as down.
    pub fn expect(&mut self, now: Now, key: SenderKey) {
        self.senders
            .entry(key)
            .or_insert_with(|| Sender::new(now))
            .expected = true;
    }

    /// A sender introduces itself. It is told the session's last number as stored, and forgets what it kept up to there: so
    /// what has changed is to be stored before it is welcomed.
    ///
    /// # Errors
    /// [`Refusal`]; nothing is changed then.
    pub fn hello(&mut self, now: Now, hello: &Hello) -> Result<Session, Refusal> {
        let key = check(hello)?;
        let known = self.senders.get(&key);
        if let Some(sender) = known
            && sender.is_another(&hello.instance_id)
            && sender.is_heard(now)
        {
            return Err(Refusal {
                code: RefusalCode::NameInUse,
                reason: format!(
                    "a {} of the name {:?} is connected; give this one another name",
                    key.role, key.name
                ),
            });
        }
        if known.is_none() && !self.make_room(now) {
            return Err(Refusal {
                code: RefusalCode::NotServed,
                reason: format!(
                    "{MAX_SENDERS} senders are connected or expected, and more are not taken"
                ),
            });
        }
        let sender = self
            .senders
            .entry(key.clone())
            .or_insert_with(|| Sender::new(now));
        let mut changes = Changes::default();
        let last_sequence = sender.begin(now, hello, &mut changes);
        self.note(&key, changes);
        Ok(Session {
            instance_id: hello.instance_id.clone(),
            key,
            last_sequence,
        })
    }

    /// A sender tells something.
    pub fn event(&mut self, now: Now, session: &Session, event: &Numbered) -> Outcome {
        let Some(sender) = Self::present(&mut self.senders, session) else {
            return Outcome::Replaced;
        };
        let mut changes = Changes::default();
        let outcome = sender.event(now, event, &mut changes);
        self.note(&session.key, changes);
        outcome
    }

    /// A sender has nothing to tell.
    pub fn heartbeat(&mut self, now: Now, session: &Session) -> Outcome {
        let Some(sender) = Self::present(&mut self.senders, session) else {
            return Outcome::Replaced;
        };
        sender.heard(now);
        Outcome::Applied
    }

    /// A sender's connection has ended.
    pub fn disconnected(&mut self, now: Now, session: &Session) {
        if let Some(sender) = Self::present(&mut self.senders, session) {
            sender.disconnected(now);
            self.changed.insert((session.key.clone(), Key::Sender));
        }
    }

    /// All senders.
    pub fn senders(&self) -> impl Iterator<Item = (&SenderKey, &Sender)> {
        self.senders.iter()
    }

    /// One sender.
    #[must_use]
    pub fn sender(&self, key: &SenderKey) -> Option<&Sender> {
        self.senders.get(key)
    }

    /// The same with its own key, which lives as long.
    #[must_use]
    pub fn known(&self, key: &SenderKey) -> Option<(&SenderKey, &Sender)> {
        self.senders.get_key_value(key)
    }

    /// What has changed since the last time, to be stored together; `None` is to be deleted.
    pub fn take_changes(&mut self) -> Vec<(SenderKey, Key, Option<Document>)> {
        // What a sender that came again has told since is no leftover: it is looked up below like anything else.
        let leftover = self.leftover.len().min(FORGOTTEN_AT_ONCE);
        self.changed.extend(self.leftover.drain(..leftover));
        std::mem::take(&mut self.changed)
            .into_iter()
            .map(|(sender, key)| {
                let document = self
                    .senders
                    .get(&sender)
                    .and_then(|sender| sender.document(&key));
                (sender, key, document)
            })
            .collect()
    }

    /// Work that was told since this was asked last.
    pub fn take_work(&mut self) -> Vec<(SenderKey, Done)> {
        std::mem::take(&mut self.work)
    }

    /// Channels that have ended since this was asked last.
    pub fn take_ended(&mut self) -> Vec<(SenderKey, ChannelId)> {
        std::mem::take(&mut self.ended)
    }

    /// Nobody listened until now: who is connected may have said something.
    pub fn excuse_silence(&mut self, now: Now) {
        for sender in self.senders.values_mut() {
            sender.excuse(now);
        }
    }

    fn present<'a>(
        senders: &'a mut BTreeMap<SenderKey, Sender>,
        session: &Session,
    ) -> Option<&'a mut Sender> {
        senders
            .get_mut(&session.key)
            .filter(|sender| !sender.is_another(&session.instance_id))
    }

    fn note(&mut self, sender: &SenderKey, changes: Changes) {
        let keys = changes.keys.into_iter();
        self.changed.extend(keys.map(|key| (sender.clone(), key)));
        let work = changes.work.into_iter();
        self.work.extend(work.map(|done| (sender.clone(), done)));
        let ended = changes.ended.into_iter();
        self.ended
            .extend(ended.map(|channel| (sender.clone(), channel)));
    }
}

/// How often a sender says something at least, as it is taken.
pub(crate) fn heartbeat(hello: &Hello) -> Duration {
    Duration::from_millis(hello.heartbeat_ms).clamp(SHORTEST_HEARTBEAT, LONGEST_HEARTBEAT)
}

/// Who it is, if that can be.
fn check(hello: &Hello) -> Result<SenderKey, Refusal> {
    let refuse = |code, reason: String| Err(Refusal { code, reason });
    if hello.version > VERSION {
        let reason = format!(
            "version {} of the protocol is not known here; this service speaks up to {VERSION}",
            hello.version
        );
        return refuse(RefusalCode::VersionTooNew, reason);
    }
    let texts = [
        ("role", &hello.role),
        ("name", &hello.name),
        ("instance_id", &hello.instance_id),
    ];
    for (field, text) in texts {
        if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) {
            let reason =
                format!("{field} must have 1 to {MAX_TEXT} bytes and no control characters");
            return refuse(RefusalCode::BadHello, reason);
        }
    }
    let network = hello.network.as_deref().unwrap_or_default();
    if hello.software.len() > MAX_TEXT || network.len() > MAX_TEXT {
        let reason = format!("software and network must have at most {MAX_TEXT} bytes");
        return refuse(RefusalCode::BadHello, reason);
    }
    Ok(SenderKey {
        role: hello.role.clone(),
        name: hello.name.clone(),
    })
}
