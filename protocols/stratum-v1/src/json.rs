//! JSON read in place: values are slices of the line, checked once, and nothing is ever built from them.
//!
//! A tree (`serde_json::Value`) would cost a dozen allocations a submit. Here nesting is followed with one bit a level
//! instead of recursion, so that no line can exhaust the stack.

use std::borrow::Cow;

use crate::hex_text;

/// Why a line could not be understood. Always the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Bytes that are not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// Not well-formed JSON.
    #[error("malformed JSON")]
    NotJson,
    /// Arrays or objects more than 64 deep.
    #[error("JSON nested too deeply")]
    TooDeep,
    /// JSON, but not an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// The object names no method and is no response either.
    #[error("no method")]
    NoMethod,
    /// JSON that another parser may read as something else; only [`crate::parse_request_strictly`] minds.
    #[error("keys or a method that can be read in more than one way")]
    Ambiguous,
    /// The id is neither a number, a string nor null.
    #[error("id must be a number, a string or null")]
    BadId,
    /// The method's parameters are not what the method takes.
    #[error("{0}")]
    BadParameters(&'static str),
    /// The same for `mining.submit`, which somebody may want to count as a share.
    #[error("{0}")]
    BadSubmit(&'static str),
}

/// One JSON value of a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as it was written.
    Number(&'a str),
    /// A string.
    Text(Text<'a>),
    /// An array.
    Array(Array<'a>),
    /// An object.
    Object(Object<'a>),
}

impl<'a> Value<'a> {
    /// The string, if it is one.
    pub fn text(self) -> Option<Text<'a>> {
        if let Value::Text(text) = self {
            Some(text)
        } else {
            None
        }
    }

    /// The array, if it is one.
    pub fn array(self) -> Option<Array<'a>> {
        if let Value::Array(array) = self {
            Some(array)
        } else {
            None
        }
    }

    /// The object, if it is one.
    pub fn object(self) -> Option<Object<'a>> {
        if let Value::Object(object) = self {
            Some(object)
        } else {
            None
        }
    }

    /// A finite number, given as a number or (as some firmware does) as a string that holds one.
    pub fn number(self) -> Option<f64> {
        let digits = match self {
            Value::Number(digits) => Cow::Borrowed(digits),
            Value::Text(text) => text.decode(),
            _ => return None,
        };
        digits
            .trim()
            .parse::<f64>()
            .ok()
            .filter(|number| number.is_finite())
    }

    /// An unsigned integer, given as a number.
    pub fn integer(self) -> Option<u64> {
        if let Value::Number(digits) = self {
            digits.parse().ok()
        } else {
            None
        }
    }

    /// A 32-bit value in hexadecimal text (with or without `0x`, in either case, of one to eight digits).
    pub fn hex_u32(self) -> Option<u32> {
        hex_text::parse_u32(self.text()?)
    }
}

/// The contents of a JSON string as they stand on the line, escapes included. Escapes are decoded while comparing.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    raw: &'a str,
    escaped: bool,
}

impl<'a> Text<'a> {
    /// The string's characters, escapes decoded. Half a surrogate pair becomes U+FFFD.
    pub fn chars(self) -> impl Iterator<Item = char> + 'a {
        let mut rest = self.raw.chars();
        let mut units = std::iter::from_fn(move || unescape(&mut rest)).peekable();
        std::iter::from_fn(move || {
            let unit = units.next()?;
            if let 0xd800..0xdc00 = unit
                && let Some(low) = units.next_if(|low| (0xdc00..0xe000).contains(low))
            {
                return char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00));
            }
            Some(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
        })
    }

    /// The string, borrowed unless it holds escapes.
    pub fn decode(self) -> Cow<'a, str> {
        if self.escaped {
            Cow::Owned(self.chars().collect())
        } else {
            Cow::Borrowed(self.raw)
        }
    }

    /// The string if it holds no escapes, which is so for everything that a sane peer sends.
    pub fn plain(self) -> Option<&'a str> {
        (!self.escaped).then_some(self.raw)
    }

    /// The bytes of a hexadecimal string, appended to `out`; `None` (and `out` as it was) if it is not hexadecimal.
    pub fn decode_hex(self, out: &mut Vec<u8>) -> Option<()> {
        let before = out.len();
        let text = self.decode();
        let digits = hex_text::without_prefix(text.as_bytes());
        out.resize(before + digits.len() / 2, 0);
        hex::decode_to_slice(digits, &mut out[before..])
            .map_err(|_| out.truncate(before))
            .ok()
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        if self.escaped || other.escaped {
            self.chars().eq(other.chars())
        } else {
            self.raw == other.raw
        }
    }
}

impl PartialEq<str> for Text<'_> {
    fn eq(&self, other: &str) -> bool {
        if self.escaped {
            self.chars().eq(other.chars())
        } else {
            self.raw == other
        }
    }
}

impl PartialEq<&str> for Text<'_> {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

/// The next UTF-16 unit or scalar value of a checked string's contents.
fn unescape(rest: &mut std::str::Chars<'_>) -> Option<u32> {
    let character = rest.next()?;
    if character != '\\' {
        return Some(u32::from(character));
    }
    Some(match rest.next()? {
        'b' => 0x08,
        'f' => 0x0c,
        'n' => 0x0a,
        'r' => 0x0d,
        't' => 0x09,
        'u' => {
            let mut unit = 0;
            for _ in 0..4 {
                unit = unit << 4 | rest.next()?.to_digit(16)?;
            }
            unit
        }
        other => u32::from(other),
    })
}

/// A checked JSON array.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a>(&'a str);

impl<'a> Array<'a> {
    /// Its elements in order.
    pub fn elements(self) -> Elements<'a> {
        Elements(Scanner::inside(self.0))
    }
}

/// The elements of an [`Array`].
#[derive(Debug, Clone)]
pub struct Elements<'a>(Scanner<'a>);

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.0.skip_separator();
        self.0.value().ok()
    }
}

/// A checked JSON object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Object<'a>(&'a str);

impl<'a> Object<'a> {
    /// Its members in order, duplicates included.
    pub fn members(self) -> Members<'a> {
        Members(Scanner::inside(self.0))
    }

    /// The last member of this name, as every JSON reader of the field has it.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        self.members()
            .filter(|(name, _)| *name == *key)
            .last()
            .map(|(_, value)| value)
    }
}

/// The members of an [`Object`].
#[derive(Debug, Clone)]
pub struct Members<'a>(Scanner<'a>);

impl<'a> Iterator for Members<'a> {
    type Item = (Text<'a>, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.skip_separator();
        let key = self.0.key().ok()?;
        Some((key, self.0.value().ok()?))
    }
}

/// Reads values off a text from left to right.
#[derive(Debug, Clone)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Inside the brackets of an array or object that has been checked.
    fn inside(container: &'a str) -> Self {
        Self::new(&container[1..container.len() - 1])
    }

    /// Steps over white space and then over `byte`, if that is next.
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// How many bytes have been read.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    fn skip_separator(&mut self) {
        if self.at > 0 {
            self.take(b',');
        }
    }

    /// A member's name and its colon.
    pub(crate) fn key(&mut self) -> Result<Text<'a>, Fault> {
        if self.peek() != Some(b'"') {
            return Err(Fault::NotJson);
        }
        let key = self.string()?;
        if self.take(b':') {
            Ok(key)
        } else {
            Err(Fault::NotJson)
        }
    }

    /// The next value, whole and checked.
    pub(crate) fn value(&mut self) -> Result<Value<'a>, Fault> {
        match self.peek() {
            Some(b'[') => Ok(Value::Array(Array(self.container()?))),
            Some(b'{') => Ok(Value::Object(Object(self.container()?))),
            _ => self.scalar(),
        }
    }

    /// An array or object with all it contains; one bit of `objects` says for each open level what it is.
    fn container(&mut self) -> Result<&'a str, Fault> {
        let start = self.at;
        let mut objects = 0u64;
        let mut depth = 0u32;
        'value: loop {
            match self.peek() {
                Some(open @ (b'[' | b'{')) => {
                    self.at += 1;
                    if depth == u64::BITS {
                        return Err(Fault::TooDeep);
                    }
                    depth += 1;
                    objects = objects << 1 | u64::from(open == b'{');
                    let close = if open == b'{' { b'}' } else { b']' };
                    if self.peek() != Some(close) {
                        if open == b'{' {
                            self.key()?;
                        }
                        continue 'value;
                    }
                }
                _ => {
                    self.scalar()?;
                }
            }
            // A value has ended, or the innermost container is empty: on to the next value, or out.
            loop {
                let in_object = objects & 1 == 1;
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        if in_object {
                            self.key()?;
                        }
                        continue 'value;
                    }
                    Some(close) if close == if in_object { b'}' } else { b']' } => {
                        self.at += 1;
                        depth -= 1;
                        objects >>= 1;
                        if depth == 0 {
                            return Ok(&self.text[start..self.at]);
                        }
                    }
                    _ => return Err(Fault::NotJson),
                }
            }
        }
    }

    fn scalar(&mut self) -> Result<Value<'a>, Fault> {
        match self.peek() {
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(b'-' | b'0'..=b'9') => Ok(Value::Number(self.number()?)),
            Some(b'n') => self.word("null", Value::Null),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            _ => Err(Fault::NotJson),
        }
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, Fault> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(Fault::NotJson);
        }
        self.at += word.len();
        Ok(value)
    }

    /// A string; the cursor stands on its opening quote.
    fn string(&mut self) -> Result<Text<'a>, Fault> {
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let mut at = start;
        let mut escaped = false;
        loop {
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    at += match bytes.get(at + 1) {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
                        Some(b'u')
                            if bytes
                                .get(at + 2..at + 6)
                                .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) =>
                        {
                            6
                        }
                        _ => return Err(Fault::NotJson),
                    };
                }
                Some(0..0x20) | None => return Err(Fault::NotJson),
                Some(_) => at += 1,
            }
        }
        self.at = at + 1;
        Ok(Text {
            raw: &self.text[start..at],
            escaped,
        })
    }

    fn number(&mut self) -> Result<&'a str, Fault> {
        let start = self.at;
        self.at += usize::from(self.byte() == Some(b'-'));
        let integer = self.at;
        self.digits()?;
        if self.text.as_bytes()[integer] == b'0' && self.at > integer + 1 {
            return Err(Fault::NotJson);
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while matches!(self.byte(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at > start {
            Ok(())
        } else {
            Err(Fault::NotJson)
        }
    }

    /// The next byte that is not white space, with the cursor on it.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.byte() {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.at += 1,
                other => return other,
            }
        }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &str) -> Result<Value<'_>, Fault> {
        let mut scanner = Scanner::new(text);
        let value = scanner.value()?;
        if scanner.at_end() {
            Ok(value)
        } else {
            Err(Fault::NotJson)
        }
    }

    /// The same value, built with serde_json from our borrowed pieces.
    fn tree(value: Value<'_>) -> serde_json::Value {
        match value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(bool) => bool.into(),
            Value::Number(digits) => serde_json::from_str(digits).unwrap(),
            Value::Text(text) => text.decode().into_owned().into(),
            Value::Array(array) => array.elements().map(tree).collect(),
            Value::Object(object) => serde_json::Value::Object(
                object
                    .members()
                    .map(|(k, v)| (k.decode().into_owned(), tree(v)))
                    .collect(),
            ),
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(6, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::hash_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_reads_as_serde_json_reads_it(json in any_json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&json) } else { serde_json::to_string(&json) }.unwrap();
            let ours = tree(whole(&text).unwrap());
            prop_assert_eq!(ours, serde_json::from_str::<serde_json::Value>(&text).unwrap());
        }

        #[test]
        fn what_serde_json_refuses_is_refused(text in r#"[\[\]{}:, "\\a0-9.eEtrufalsn-]{0,24}"#) {
            prop_assert_eq!(whole(&text).is_ok(), serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok(), "{}", text);
        }

        #[test]
        fn an_escaped_string_equals_itself(string: String) {
            let escaped: String = string.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            let line = format!("\"{escaped}\"");
            let text = whole(&line).unwrap().text().unwrap();
            prop_assert!(text == string.as_str());
            prop_assert_eq!(text.decode().into_owned(), string);
        }
    }

    #[test]
    fn half_a_surrogate_pair_becomes_the_replacement_character() {
        assert_eq!(
            whole(r#""\ud800x\udc00""#)
                .unwrap()
                .text()
                .unwrap()
                .decode(),
            "\u{fffd}x\u{fffd}"
        );
    }

    #[test]
    fn depth_is_limited_without_recursion() {
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(whole(&deep(64)).is_ok());
        assert_eq!(whole(&deep(65)), Err(Fault::TooDeep));
        assert_eq!(whole(&"{\"a\":".repeat(100_000)), Err(Fault::TooDeep));
    }
}
