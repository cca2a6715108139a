//! What a miner asks of a server, read from one line.

use crate::hex_text;
use crate::id::Id;
use crate::json::{Array, Fault, Scanner, Text, Value};
use crate::submit::Submit;

/// One request of a miner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request<'a> {
    /// Returned with the answer.
    pub id: Id<'a>,
    /// What it asks.
    pub method: Method<'a>,
}

/// What a miner asks. Anything that is not known here has its name, so that it can be answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method<'a> {
    /// `mining.subscribe`
    Subscribe {
        /// The miner's software.
        user_agent: Option<Text<'a>>,
        /// An earlier session that it would like to resume.
        session: Option<Text<'a>>,
    },
    /// `mining.configure` (BIP 310)
    Configure(Configure<'a>),
    /// `mining.authorize`, also called `mining.auth`
    Authorize {
        /// The account and worker.
        user: Text<'a>,
        /// The password, which carries options if anything.
        password: Option<Text<'a>>,
    },
    /// `mining.suggest_difficulty`; not checked for its sign.
    SuggestDifficulty(f64),
    /// `mining.suggest_target`, in internal byte order.
    SuggestTarget([u8; 32]),
    /// `mining.extranonce.subscribe`
    ExtranonceSubscribe,
    /// `mining.submit`
    Submit(Submit<'a>),
    /// `mining.multi_version`, how firmware older than BIP 310 says that it can roll versions.
    MultiVersion {
        /// How many versions it can work on at once; 1 if it did not say.
        versions: u64,
    },
    /// `mining.get_transactions`
    GetTransactions,
    /// `mining.ping`
    Ping,
    /// `client.get_version`, asked of the server
    GetVersion,
    /// `client.show_message`, which a server says; proxies pass it on in the wrong direction
    ShowMessage,
    /// `client.reconnect`, which a server says; proxies pass it on in the wrong direction
    Reconnect,
    /// A response to something that the server asked; it needs no answer.
    Response,
    /// Any other method.
    Unknown {
        /// The method's name.
        name: Text<'a>,
    },
}

/// What a miner wants to configure (BIP 310).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Configure<'a> {
    /// `version-rolling`, if it was asked for.
    pub version_rolling: Option<VersionRolling>,
    /// `minimum-difficulty`, if it was asked for; without a number that makes no sense.
    pub minimum_difficulty: Option<Option<f64>>,
    /// Whether `subscribe-extranonce` was asked for.
    pub subscribe_extranonce: bool,
    /// Whether `info` was given.
    pub info: bool,
    extensions: Array<'a>,
}

impl<'a> Configure<'a> {
    /// The names of extensions that this crate does not know.
    pub fn unknown(self) -> impl Iterator<Item = Text<'a>> {
        const KNOWN: [&str; 4] = [
            "version-rolling",
            "minimum-difficulty",
            "subscribe-extranonce",
            "info",
        ];
        self.extensions
            .elements()
            .filter_map(Value::text)
            .filter(|name| KNOWN.iter().all(|known| *name != *known))
    }
}

/// Parameters of the `version-rolling` extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRolling {
    /// The bits that the miner can roll; all of them if it did not say.
    pub mask: u32,
    /// How many bits it needs at least.
    pub min_bit_count: u32,
}

/// A line that could not be understood, with the request's id where that was readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct ParseError<'a> {
    /// The id to answer to; absent if there was none, or none that could be read.
    pub id: Id<'a>,
    /// What was wrong.
    pub fault: Fault,
}

/// Reads one line from a miner. Never allocates for a submit, and never panics.
///
/// # Errors
/// Says what was wrong, with the id if it could be read, so that every request with an id can be answered.
pub fn parse_request(line: &[u8]) -> Result<Request<'_>, ParseError<'_>> {
    request_in(Envelope::read(line)?)
}

/// The same for who must know that nobody else reads the line as another request. Refused are keys that are escaped, come
/// twice, or are known ones but for their case, which Go's `encoding/json` ignores; a response with members of a request; and
/// a method that is escaped, or that begins like one that names a worker, which is all that ckpool looks at.
///
/// # Errors
/// Also [`Fault::Ambiguous`].
pub fn parse_request_strictly(line: &[u8]) -> Result<Request<'_>, ParseError<'_>> {
    let envelope = Envelope::read(line)?;
    let (id, is_plain) = (envelope.id, !envelope.ambiguous);
    let is_only_a_response =
        !envelope.others && envelope.method.is_none() && envelope.params.is_none();
    let request = request_in(envelope)?;
    let is_clear = is_plain
        && match request.method {
            Method::Response => is_only_a_response,
            Method::Unknown { name } => names_no_worker(name),
            _ => true,
        };
    if is_clear {
        Ok(request)
    } else {
        Err(ParseError {
            id,
            fault: Fault::Ambiguous,
        })
    }
}

/// Whether no server takes the method for one that names a worker.
fn names_no_worker(method: Text<'_>) -> bool {
    let Some(name) = method.plain().filter(|name| name.is_ascii()) else {
        return false;
    };
    let name = name.trim_start().as_bytes();
    let begins = |with: &str| {
        let start = name.get(..with.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
    };
    !begins("mining.auth") && !begins("mining.submit")
}

fn request_in(envelope: Envelope<'_>) -> Result<Request<'_>, ParseError<'_>> {
    let Envelope {
        id,
        method,
        params,
        response,
        ..
    } = envelope;
    let fail = |fault| ParseError { id, fault };
    let Some(Value::Text(name)) = method else {
        let nothing_asked = matches!(method, None | Some(Value::Null));
        return if response && nothing_asked {
            Ok(Request {
                id,
                method: Method::Response,
            })
        } else {
            Err(fail(Fault::NoMethod))
        };
    };
    let params = match params {
        Some(Value::Array(array)) => Some(array),
        _ => None,
    };
    Ok(Request {
        id,
        method: Method::parse(name, params).map_err(fail)?,
    })
}

impl<'a> Method<'a> {
    fn parse(name: Text<'a>, params: Option<Array<'a>>) -> Result<Self, Fault> {
        const NO_PARAMS: Fault = Fault::BadParameters("params must be an array");
        let element = |index: usize| params.and_then(|params| params.elements().nth(index));
        // A method's name holds nothing to escape; an escaped one is nobody's.
        Ok(match name.plain().unwrap_or_default() {
            "mining.submit" => {
                let params = params.ok_or(Fault::BadSubmit("params must be an array"))?;
                Self::Submit(Submit::parse(params)?)
            }
            "mining.subscribe" => Self::Subscribe {
                user_agent: element(0).and_then(Value::text),
                session: element(1).and_then(Value::text),
            },
            "mining.authorize" | "mining.auth" => Self::Authorize {
                user: element(0)
                    .and_then(Value::text)
                    .ok_or(Fault::BadParameters("user name must be a string"))?,
                password: element(1).and_then(Value::text),
            },
            "mining.configure" => Self::Configure(Configure::parse(params.ok_or(NO_PARAMS)?)?),
            "mining.suggest_difficulty" => Self::SuggestDifficulty(
                element(0)
                    .and_then(Value::number)
                    .ok_or(Fault::BadParameters("difficulty must be a number"))?,
            ),
            "mining.suggest_target" => {
                let mut target = element(0)
                    .and_then(Value::text)
                    .and_then(hex_text::parse_32)
                    .ok_or(Fault::BadParameters(
                        "target must be 32 bytes in hexadecimal",
                    ))?;
                target.reverse();
                Self::SuggestTarget(target)
            }
            "mining.extranonce.subscribe" => Self::ExtranonceSubscribe,
            "mining.multi_version" => Self::MultiVersion {
                versions: element(0).and_then(Value::integer).unwrap_or(1),
            },
            "mining.get_transactions" => Self::GetTransactions,
            "mining.ping" => Self::Ping,
            "client.get_version" => Self::GetVersion,
            "client.show_message" => Self::ShowMessage,
            "client.reconnect" => Self::Reconnect,
            _ => Self::Unknown { name },
        })
    }
}

impl<'a> Configure<'a> {
    fn parse(params: Array<'a>) -> Result<Self, Fault> {
        let mut params = params.elements();
        let extensions = params
            .next()
            .and_then(Value::array)
            .ok_or(Fault::BadParameters(
                "the first parameter must be an array of extensions",
            ))?;
        let options = params.next().and_then(Value::object);
        let asked = |name: &str| {
            extensions
                .elements()
                .filter_map(Value::text)
                .any(|extension| extension == name)
        };
        let option = |name: &str| options.and_then(|options| options.get(name));
        Ok(Self {
            version_rolling: asked("version-rolling").then(|| VersionRolling {
                mask: option("version-rolling.mask")
                    .and_then(Value::hex_u32)
                    .unwrap_or(u32::MAX),
                min_bit_count: option("version-rolling.min-bit-count")
                    .and_then(Value::integer)
                    .and_then(|count| u32::try_from(count).ok())
                    .unwrap_or(0),
            }),
            minimum_difficulty: asked("minimum-difficulty")
                .then(|| option("minimum-difficulty.value").and_then(Value::number)),
            subscribe_extranonce: asked("subscribe-extranonce"),
            info: asked("info"),
            extensions,
        })
    }
}

/// The members of a JSON-RPC object that matter, in whatever order they came. Of duplicates the last counts.
pub(crate) struct Envelope<'a> {
    pub(crate) id: Id<'a>,
    pub(crate) method: Option<Value<'a>>,
    pub(crate) params: Option<Value<'a>>,
    pub(crate) result: Option<Value<'a>>,
    pub(crate) error: Option<Value<'a>>,
    /// Whether there is a `result` or an `error`, null or not.
    pub(crate) response: bool,
    /// Whether another parser could take other members for these: keys are escaped, come twice, or differ in case only.
    ambiguous: bool,
    /// Whether there are members that are not among these, and not the version of JSON-RPC.
    others: bool,
}

impl<'a> Envelope<'a> {
    pub(crate) fn read(line: &'a [u8]) -> Result<Self, ParseError<'a>> {
        let mut envelope = Self {
            id: Id::ABSENT,
            method: None,
            params: None,
            result: None,
            error: None,
            response: false,
            ambiguous: false,
            others: false,
        };
        let outcome = match std::str::from_utf8(line) {
            Ok(text) => envelope.fill(text),
            Err(error) => {
                // What stands before the bad byte may hold the id.
                let (good, _) = line.split_at(error.valid_up_to());
                let _ = envelope.fill(std::str::from_utf8(good).unwrap_or_default());
                Err(Fault::NotUtf8)
            }
        };
        match outcome {
            Ok(()) => Ok(envelope),
            Err(fault) => Err(ParseError {
                id: envelope.id,
                fault,
            }),
        }
    }

    fn fill(&mut self, text: &'a str) -> Result<(), Fault> {
        let mut scanner = Scanner::new(text);
        if !scanner.take(b'{') {
            return Err(if scanner.value().is_ok() {
                Fault::NotAnObject
            } else {
                Fault::NotJson
            });
        }
        let mut bad_id = false;
        let mut first = true;
        while !scanner.take(b'}') {
            if !first && !scanner.take(b',') {
                return Err(Fault::NotJson);
            }
            first = false;
            let key = scanner.key()?;
            let before = scanner.position();
            let value = scanner.value()?;
            let twice = match key.plain().unwrap_or_default() {
                "id" => {
                    let id = Id::from_json(text[before..scanner.position()].trim(), value);
                    bad_id = id.is_none();
                    let before = std::mem::replace(&mut self.id, id.unwrap_or(Id::NULL));
                    !before.is_absent()
                }
                "method" => self.method.replace(value).is_some(),
                "params" => self.params.replace(value).is_some(),
                "result" => {
                    self.response = true;
                    self.result.replace(value).is_some()
                }
                "error" => {
                    self.response = true;
                    self.error.replace(value).is_some()
                }
                "jsonrpc" => false,
                _ => {
                    self.others = true;
                    may_be_known(key)
                }
            };
            self.ambiguous |= twice;
        }
        if !scanner.at_end() {
            return Err(Fault::NotJson);
        }
        if bad_id { Err(Fault::BadId) } else { Ok(()) }
    }
}

/// Whether a parser that decodes keys, or takes no notice of their case, could know this one.
fn may_be_known(key: Text<'_>) -> bool {
    const KNOWN: [&str; 5] = ["id", "method", "params", "result", "error"];
    let plain = key.plain().filter(|key| key.is_ascii());
    plain.is_none_or(|key| KNOWN.iter().any(|known| key.eq_ignore_ascii_case(known)))
}
