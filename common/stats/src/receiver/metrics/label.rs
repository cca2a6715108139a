//! Texts of senders and of those who are connected to them, as values of labels.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The longest value, in bytes. An address and an account that is a public key fit.
const LONGEST: usize = 128;

/// The text, if it is short and can be shown; else what can be shown of it, and a number by which it is told from others.
/// Quotes and line ends are escaped where labels are written down.
pub(super) fn label(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST && !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let mark = format!("~{:016x}", hasher.finish());
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
}
