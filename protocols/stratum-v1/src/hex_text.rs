//! Hexadecimal fields of a submit, judged without allocation.

use std::ops::Deref;

use crate::json::Text;

/// The longest extranonce there is (SV2 5.1: `B0_32`).
const MAX_EXTRANONCE: usize = 32;

/// Up to 32 bytes of extranonce, held inline.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ExtranonceBytes {
    bytes: [u8; MAX_EXTRANONCE],
    len: u8,
}

impl ExtranonceBytes {
    /// `None` if there are more than 32 bytes.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut extranonce = Self {
            bytes: [0; MAX_EXTRANONCE],
            len: u8::try_from(bytes.len()).ok()?,
        };
        extranonce
            .bytes
            .get_mut(..bytes.len())?
            .copy_from_slice(bytes);
        Some(extranonce)
    }

    pub(crate) fn from_hex(text: Text<'_>) -> Option<Self> {
        let mut buffer = [0; 2 * MAX_EXTRANONCE + 2];
        let digits = digits(text, &mut buffer)?;
        let len = digits.len() / 2;
        let mut bytes = [0; MAX_EXTRANONCE];
        hex::decode_to_slice(digits, bytes.get_mut(..len)?).ok()?;
        Some(Self {
            bytes,
            len: u8::try_from(len).ok()?,
        })
    }
}

impl Deref for ExtranonceBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl std::fmt::Debug for ExtranonceBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(&**self))
    }
}

/// One to eight digits, in either case, with or without `0x`: firmware that prints `%x` is understood too.
pub(crate) fn parse_u32(text: Text<'_>) -> Option<u32> {
    let mut buffer = [0; 10];
    let digits = digits(text, &mut buffer)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    digits.iter().try_fold(0, |value, digit| {
        Some(value << 4 | char::from(*digit).to_digit(16)?)
    })
}

/// 32 bytes as they are written.
pub(crate) fn parse_32(text: Text<'_>) -> Option<[u8; 32]> {
    let mut buffer = [0; 66];
    let mut bytes = [0; 32];
    hex::decode_to_slice(digits(text, &mut buffer)?, &mut bytes).ok()?;
    Some(bytes)
}

pub(crate) fn without_prefix(digits: &[u8]) -> &[u8] {
    digits
        .strip_prefix(b"0x")
        .or_else(|| digits.strip_prefix(b"0X"))
        .unwrap_or(digits)
}

/// The text's bytes without `0x`; through `buffer` if they were escaped. `None` if they cannot be hexadecimal.
fn digits<'a>(text: Text<'a>, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    if let Some(plain) = text.plain() {
        return Some(without_prefix(plain.as_bytes()));
    }
    let mut len = 0;
    for character in text.chars() {
        *buffer.get_mut(len)? = u8::try_from(character).ok()?;
        len += 1;
    }
    Some(without_prefix(&buffer[..len]))
}
