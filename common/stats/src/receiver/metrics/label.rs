//! Texts of senders and of those who are connected to them, as values of labels.

use std::borrow::Cow;

/// The longest value, in bytes. An address and an account that is a public key fit.
const LONGEST: usize = 128;

/// The text, if it is short and can be shown; else what can be shown of it, and a number by which it is told from others.
/// Quotes and line ends are escaped where labels are written down.
pub(super) fn label(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST && !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mark = format!("~{:016x}", fnv1a(text.as_bytes()));
    let mut shown = String::with_capacity(LONGEST);
    for character in text.chars() {
        let character = if character.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            character
        };
        if shown.len() + character.len_utf8() + mark.len() > LONGEST {
            break;
        }
        shown.push(character);
    }
    Cow::Owned(shown + &mark)
}

/// FNV-1a of 64 bits. A label must be the same after every update, or its series would end; the standard library's own hash
/// does not promise that.
fn fnv1a(bytes: &[u8]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
    bytes.iter().fold(BASIS, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_or_cannot_be_shown_is_still_told_apart() {
        assert_eq!(label("alice.rig"), "alice.rig");
        assert_eq!(label(&"a".repeat(LONGEST)), "a".repeat(LONGEST));
        let long = |end: &str| label(&("é".repeat(200) + end)).into_owned();
        assert!(long("1").len() <= LONGEST);
        assert_ne!(long("1"), long("2"));
        assert_eq!(long("1"), long("1"));
        let lines = label("a\nb");
        assert!(lines.starts_with("a\u{fffd}b~"), "{lines}");
        assert_ne!(lines, label("a\tb"));
    }

    #[test]
    fn a_label_stays_the_same_whatever_it_is_built_with() {
        // Test vectors of the hash's authors.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(label("a\nb"), "a\u{fffd}b~e5beb1190415e670");
    }
}
