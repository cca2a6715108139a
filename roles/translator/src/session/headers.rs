//! The headers that a miner has submitted on one tip, so that a repetition is known.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::mem::swap;

/// Headers for the upstream that are known again: at least so many, and twice as many at most. That is some minutes of four
/// shares a second; what is repeated is repeated within seconds. As many as a table of 1,024 places takes, which is 9 KiB.
const GENERATION: usize = 7 << 7;

/// With so many headers noted on one tip that count here alone, further ones are refused: no difficulty that makes sense has
/// a miner find as many. A table of 4,096 places takes them.
const COUNTED_HERE: usize = 7 << 9;

/// Each header is known by 8 bytes of its hash. By chance, one new share in 10^15 is taken for another.
type Set = HashSet<u64, BuildHasherDefault<AsItIs>>;

/// Headers of the current tip.
#[derive(Debug, Default)]
pub(super) struct Headers {
    newer: Set,
    older: Set,
    counted_here: Set,
}

/// What became of noting a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noted {
    New,
    Known,
    /// It is not known, and there is no room to note it.
    TooMany,
}

impl Headers {
    /// Notes a header, and says whether it was noted before.
    ///
    /// What is for the upstream is forgotten after a while, and what repeats it then goes there: it judges duplicates by
    /// itself, so that none is counted twice and no honest share is refused; only what the miner is told can then be kinder
    /// than what is counted. What counts here alone is never forgotten, and has a cap instead.
    pub(super) fn note(&mut self, hash: &[u8; 32], for_upstream: bool) -> Noted {
        let low = low_end(hash);
        let sets = [&self.newer, &self.older, &self.counted_here];
        if sets.iter().any(|noted| noted.contains(&low)) {
            return Noted::Known;
        }
        if for_upstream {
            if self.newer.len() == GENERATION {
                swap(&mut self.newer, &mut self.older);
                self.newer.clear();
            }
            self.newer.insert(low);
        } else if self.counted_here.len() == COUNTED_HERE {
            return Noted::TooMany;
        } else {
            self.counted_here.insert(low);
        }
        Noted::New
    }
}

/// The high end of a share's hash is mostly zeros.
fn low_end(hash: &[u8; 32]) -> u64 {
    let mut low = [0; 8];
    low.copy_from_slice(&hash[..8]);
    u64::from_le_bytes(low)
}

/// Hashes what is a hash already. Whoever finds headers that collide in it has to hash for that, and slows itself down alone.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: usize) -> [u8; 32] {
        work::header::sha256d(&number.to_le_bytes())
    }

    #[test]
    fn a_share_is_known_again_for_a_while_and_memory_is_bounded() {
        let mut headers = Headers::default();
        for number in 0..10 * GENERATION {
            assert_eq!(headers.note(&hash(number), true), Noted::New);
            let before = number.saturating_sub(GENERATION - 1);
            assert_eq!(headers.note(&hash(before), true), Noted::Known);
            for set in [&headers.newer, &headers.older] {
                assert!(set.capacity() <= GENERATION, "no place is unused");
            }
        }
        // It is for the upstream to say.
        assert_eq!(headers.note(&hash(0), true), Noted::New);
    }

    #[test]
    fn what_counts_here_alone_never_counts_twice() {
        let mut headers = Headers::default();
        for number in 0..COUNTED_HERE {
            assert_eq!(headers.note(&hash(number), false), Noted::New);
        }
        let more = hash(COUNTED_HERE);
        for _ in 0..2 {
            assert_eq!(headers.note(&more, false), Noted::TooMany);
        }
        assert_eq!(headers.note(&more, true), Noted::New);
        for number in COUNTED_HERE + 1..4 * COUNTED_HERE {
            assert_eq!(headers.note(&hash(number), true), Noted::New);
        }
        // Not as a share for a channel whose target has changed, either.
        for for_upstream in [false, true] {
            assert_eq!(headers.note(&hash(7), for_upstream), Noted::Known);
        }
    }
}
