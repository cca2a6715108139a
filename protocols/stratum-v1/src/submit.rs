//! `mining.submit`: the one request that comes thousands of times a second, so it allocates nothing.

use crate::hex_text::{self, ExtranonceBytes};
use crate::json::{Array, Fault, Text};

/// A share as a miner submits it, borrowed from its line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Submit<'a> {
    /// The name that the miner authorised.
    pub worker: Text<'a>,
    /// The job id of the `mining.notify` it worked on.
    pub job_id: Text<'a>,
    /// The miner's part of the extranonce.
    pub extranonce2: ExtranonceBytes,
    /// The header's time.
    pub ntime: u32,
    /// The header's nonce.
    pub nonce: u32,
    /// The rolled version bits (BIP 310), if it sent any.
    pub version_bits: Option<u32>,
}

impl<'a> Submit<'a> {
    pub(crate) fn parse(params: Array<'a>) -> Result<Self, Fault> {
        let mut params = params.elements();
        let mut text = |fault| {
            params
                .next()
                .and_then(|value| value.text())
                .ok_or(Fault::BadSubmit(fault))
        };
        let worker = text("worker name must be a string")?;
        let job_id = text("job id must be a string")?;
        let extranonce2 = ExtranonceBytes::from_hex(text(BAD_EXTRANONCE2)?)
            .ok_or(Fault::BadSubmit(BAD_EXTRANONCE2))?;
        let ntime = hex_text::parse_u32(text(BAD_NTIME)?).ok_or(Fault::BadSubmit(BAD_NTIME))?;
        let nonce = hex_text::parse_u32(text(BAD_NONCE)?).ok_or(Fault::BadSubmit(BAD_NONCE))?;
        let version_bits = match params.next() {
            None | Some(crate::json::Value::Null) => None,
            Some(value) => Some(value.hex_u32().ok_or(Fault::BadSubmit(BAD_VERSION_BITS))?),
        };
        Ok(Self {
            worker,
            job_id,
            extranonce2,
            ntime,
            nonce,
            version_bits,
        })
    }
}

const BAD_EXTRANONCE2: &str = "extranonce2 must be whole bytes in hexadecimal, at most 32";
const BAD_NTIME: &str = "ntime must be 32 bits in hexadecimal";
const BAD_NONCE: &str = "nonce must be 32 bits in hexadecimal";
const BAD_VERSION_BITS: &str = "version bits must be 32 bits in hexadecimal";

/// A share to submit, as a client has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share<'a> {
    /// The name that was authorised.
    pub worker: &'a str,
    /// The job id of the `mining.notify`.
    pub job_id: &'a str,
    /// Exactly as many bytes as the server asked for.
    pub extranonce2: &'a [u8],
    /// The header's time.
    pub ntime: u32,
    /// The header's nonce.
    pub nonce: u32,
    /// The rolled bits of the version, where version rolling was negotiated.
    pub version_bits: Option<u32>,
}
