//! What a server says to a client, read from one line.

use crate::hex_text::{self, ExtranonceBytes};
use crate::id::Id;
use crate::json::{Array, Fault, Text, Value};
use crate::notify::swap_words;
use crate::request::{Envelope, ParseError};

/// One line of a server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ServerMessage<'a> {
    /// `mining.notify`
    Notify(Notify<'a>),
    /// `mining.set_difficulty`: finite and above zero.
    SetDifficulty(f64),
    /// `mining.set_extranonce`
    SetExtranonce {
        /// The new extranonce1.
        extranonce1: ExtranonceBytes,
        /// How many bytes of extranonce2 follow it.
        extranonce2_size: usize,
    },
    /// `mining.set_version_mask`
    SetVersionMask(u32),
    /// `client.show_message`
    ShowMessage(Text<'a>),
    /// `client.reconnect`; where to and after how long are advice.
    Reconnect {
        /// The host, if one was given.
        host: Option<Text<'a>>,
        /// The port, if one was given.
        port: Option<u16>,
        /// Seconds to wait.
        wait_seconds: u64,
    },
    /// `client.get_version`, to be answered.
    GetVersion {
        /// The id to answer to.
        id: Id<'a>,
    },
    /// The answer to a request.
    Response {
        /// The request's id.
        id: Id<'a>,
        /// The result, or the error if there was one.
        outcome: Result<Value<'a>, RpcError<'a>>,
    },
    /// Anything else.
    Unknown {
        /// The id to answer to.
        id: Id<'a>,
        /// The method's name.
        name: Text<'a>,
    },
}

/// `mining.notify`
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Notify<'a> {
    /// To be given back in `mining.submit`.
    pub job_id: Text<'a>,
    /// In internal byte order.
    pub prev_hash: [u8; 32],
    /// The coinbase before extranonce1, in hexadecimal.
    pub coinb1: Text<'a>,
    /// The coinbase after extranonce2, in hexadecimal.
    pub coinb2: Text<'a>,
    branch: Array<'a>,
    /// The header's version.
    pub version: u32,
    /// The header's compact target.
    pub nbits: u32,
    /// The header's time.
    pub ntime: u32,
    /// Whether work on earlier jobs is worth nothing from now on.
    pub clean_jobs: bool,
}

impl<'a> Notify<'a> {
    /// The merkle path from the coinbase upwards, in internal byte order.
    pub fn merkle_path(self) -> impl Iterator<Item = [u8; 32]> + 'a {
        self.branch.elements().filter_map(hash)
    }

    fn parse(params: Array<'a>) -> Result<Self, Fault> {
        const BAD: Fault = Fault::BadParameters("not a mining.notify");
        let mut params = params.elements();
        let mut next = || params.next().ok_or(BAD);
        let text = |value: Value<'a>| value.text().ok_or(BAD);
        let word = |value: Value<'a>| value.hex_u32().ok_or(BAD);
        let job_id = text(next()?)?;
        let prev_hash = swap_words(&hash(next()?).ok_or(BAD)?);
        let coinb1 = text(next()?)?;
        let coinb2 = text(next()?)?;
        let branch = next()?.array().ok_or(BAD)?;
        if branch.elements().any(|value| hash(value).is_none()) {
            return Err(BAD);
        }
        let (version, nbits, ntime) = (word(next()?)?, word(next()?)?, word(next()?)?);
        let clean_jobs = matches!(next(), Ok(Value::Bool(true)));
        Ok(Self {
            job_id,
            prev_hash,
            coinb1,
            coinb2,
            branch,
            version,
            nbits,
            ntime,
            clean_jobs,
        })
    }
}

/// An error of a server: `[code, message, data]`, or an object as JSON-RPC 2 has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RpcError<'a> {
    /// Usually one of [`crate::ErrorCode`]'s numbers; 0 if there was none.
    pub code: i64,
    /// What a human should read.
    pub message: Option<Text<'a>>,
}

impl<'a> RpcError<'a> {
    fn parse(error: Value<'a>) -> Self {
        let (code, message) = match error {
            Value::Array(array) => (array.elements().next(), array.elements().nth(1)),
            Value::Object(object) => (object.get("code"), object.get("message")),
            other => (None, Some(other)),
        };
        let code = match code {
            Some(Value::Number(digits)) => digits.parse().unwrap_or(0),
            _ => 0,
        };
        Self {
            code,
            message: message.and_then(Value::text),
        }
    }
}

/// The result of `mining.subscribe`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscribeResult {
    /// The server's part of the extranonce.
    pub extranonce1: ExtranonceBytes,
    /// How many bytes of extranonce2 the client adds.
    pub extranonce2_size: usize,
}

impl SubscribeResult {
    /// Reads it from a response's result; `None` if it is not one.
    pub fn parse(result: Value<'_>) -> Option<Self> {
        let mut elements = result.array()?.elements().skip(1);
        let (extranonce1, extranonce2_size) = extranonce(&mut elements)?;
        Some(Self {
            extranonce1,
            extranonce2_size,
        })
    }
}

/// The result of `mining.configure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigureResult {
    /// The mask of version bits that may be rolled, if rolling was granted.
    pub version_mask: Option<u32>,
}

impl ConfigureResult {
    /// Reads it from a response's result; `None` if it is not one.
    pub fn parse(result: Value<'_>) -> Option<Self> {
        let object = result.object()?;
        let granted = object.get("version-rolling") == Some(Value::Bool(true));
        let mask = object.get("version-rolling.mask").and_then(Value::hex_u32);
        Some(Self {
            version_mask: mask.filter(|_| granted),
        })
    }
}

/// Reads one line from a server. Never panics.
///
/// # Errors
/// Says what was wrong with the line.
pub fn parse_server_message(line: &[u8]) -> Result<ServerMessage<'_>, ParseError<'_>> {
    let Envelope {
        id,
        method,
        params,
        result,
        error,
        response,
        ..
    } = Envelope::read(line)?;
    let fail = |fault| ParseError { id, fault };
    let Some(Value::Text(name)) = method else {
        if !response {
            return Err(fail(Fault::NoMethod));
        }
        let outcome = match error {
            None | Some(Value::Null) => Ok(result.unwrap_or(Value::Null)),
            Some(error) => Err(RpcError::parse(error)),
        };
        return Ok(ServerMessage::Response { id, outcome });
    };
    let params = params.and_then(Value::array);
    let element = |index: usize| params.and_then(|params| params.elements().nth(index));
    let bad = |what| fail(Fault::BadParameters(what));
    Ok(match name.plain().unwrap_or_default() {
        "mining.notify" => {
            let params = params.ok_or(bad("params must be an array"))?;
            ServerMessage::Notify(Notify::parse(params).map_err(fail)?)
        }
        "mining.set_difficulty" => ServerMessage::SetDifficulty(
            element(0)
                .and_then(Value::number)
                .filter(|difficulty| *difficulty > 0.0)
                .ok_or(bad("difficulty must be a number above zero"))?,
        ),
        "mining.set_extranonce" => {
            let mut elements = params.ok_or(bad("params must be an array"))?.elements();
            let (extranonce1, extranonce2_size) =
                extranonce(&mut elements).ok_or(bad("not an extranonce"))?;
            ServerMessage::SetExtranonce {
                extranonce1,
                extranonce2_size,
            }
        }
        "mining.set_version_mask" => ServerMessage::SetVersionMask(
            element(0)
                .and_then(Value::hex_u32)
                .ok_or(bad("not a version mask"))?,
        ),
        "client.show_message" => ServerMessage::ShowMessage(
            element(0)
                .and_then(Value::text)
                .ok_or(bad("message must be a string"))?,
        ),
        "client.reconnect" => ServerMessage::Reconnect {
            host: element(0).and_then(Value::text),
            port: element(1)
                .and_then(Value::number)
                .and_then(|port| format!("{port}").parse().ok()),
            wait_seconds: element(2).and_then(Value::integer).unwrap_or(0),
        },
        "client.get_version" => ServerMessage::GetVersion { id },
        _ => ServerMessage::Unknown { id, name },
    })
}

fn hash(value: Value<'_>) -> Option<[u8; 32]> {
    hex_text::parse_32(value.text()?)
}

/// extranonce1 and the size of extranonce2, which together must fit the 32 bytes that there are.
fn extranonce<'a>(
    elements: &mut impl Iterator<Item = Value<'a>>,
) -> Option<(ExtranonceBytes, usize)> {
    let extranonce1 = ExtranonceBytes::from_hex(elements.next()?.text()?)?;
    let size = usize::try_from(elements.next()?.integer()?).ok()?;
    (size <= 32_usize.saturating_sub(extranonce1.len())).then_some((extranonce1, size))
}
