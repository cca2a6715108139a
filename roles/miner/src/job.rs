//! A job as the hashing threads see it, and how they divide its headers among themselves.
//!
//! A thread takes a *claim*: one value of extranonce2, one roll of the version bits and one range of nonces. Claims are
//! numbered by one counter for the whole life of the miner, over all jobs and connections, and no two numbers of a
//! job's space give the same header; so none is searched twice, also when a server sends the same work again.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use work::{Difficulty, Header, Target, header};

/// How many nonces a claim holds. Small, so that extranonce2 and the version bits change many times a second and what
/// is behind the miner sees them change; large against the hashing of a coinbase.
pub(crate) const NONCES_PER_CLAIM: u32 = 1 << NONCE_BITS;
const NONCE_BITS: u32 = 16;

/// The bits of the version that BIP 320 leaves to miners.
pub(crate) const BIP320_MASK: u32 = 0x1fff_e000;

/// What a job's headers are made of: all that is hashed, so that equal templates mean equal headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    /// The coinbase up to extranonce2: the notify's first part and extranonce1.
    pub(crate) coinbase_start: Vec<u8>,
    /// The coinbase after extranonce2.
    pub(crate) coinbase_end: Vec<u8>,
    /// Bytes of extranonce2.
    pub(crate) extranonce2_size: usize,
    /// Siblings on the coinbase's way up the merkle tree.
    pub(crate) merkle_path: Vec<[u8; 32]>,
    /// In wire order, as in the header.
    pub(crate) prev_hash: [u8; 32],
    /// Version before rolling.
    pub(crate) version: u32,
    /// Version bits that may be rolled.
    pub(crate) version_mask: u32,
    /// Kept as the server gave it.
    pub(crate) ntime: u32,
    /// The network's target in compact form.
    pub(crate) nbits: u32,
}

/// A job with the target that was in force when it came.
#[derive(Debug)]
pub(crate) struct Work {
    /// The server's name for the job.
    pub(crate) job_id: String,
    /// The span of valid jobs that it belongs to.
    pub(crate) epoch: Epoch,
    /// What a share must meet.
    pub(crate) target: Target,
    /// The same as the server said it.
    pub(crate) difficulty: Difficulty,
    template: Template,
    claims: Claims,
    first_claim: u64,
}

impl Work {
    /// Work whose claims begin where all earlier ones ended; or go on with those of `previous` where both hash the same
    /// headers.
    pub(crate) fn new(
        job_id: String,
        epoch: Epoch,
        difficulty: Difficulty,
        template: Template,
        claims: &Claims,
        previous: Option<&Work>,
    ) -> Self {
        let first_claim = match previous {
            Some(previous) if previous.template == template => previous.first_claim,
            _ => claims.0.load(Ordering::Relaxed),
        };
        Self {
            job_id,
            epoch,
            target: difficulty.target(),
            difficulty,
            template,
            claims: claims.clone(),
            first_claim,
        }
    }

    /// What its headers are made of.
    pub(crate) fn template(&self) -> &Template {
        &self.template
    }

    /// Another range of headers that nobody has searched; none when all have been.
    pub(crate) fn claim(&self) -> Option<Claim> {
        // The counter is not moved by those who find the space used up, and 2^64 claims take longer than the sun has.
        let exhausted = |next: u64| next - self.first_claim >= self.template.claims();
        if exhausted(self.claims.0.load(Ordering::Relaxed)) {
            return None;
        }
        let number = self.claims.0.fetch_add(1, Ordering::Relaxed);
        (!exhausted(number)).then(|| self.template.claim(number))
    }
}

/// A span of jobs that are valid together, on one connection. The session starts another where a server drops old work;
/// each is equal to itself alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Epoch(Arc<()>);

impl PartialEq for Epoch {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The number of the next claim, shared by everything that a miner ever works on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims(Arc<AtomicU64>);

/// One thread's piece of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Header with the rolled version and the first nonce of the range, which has [`NONCES_PER_CLAIM`].
    pub(crate) header: Header,
    /// Extranonce2, of the job's size.
    pub(crate) extranonce2: Vec<u8>,
    /// The rolled bits, inside the mask.
    pub(crate) version_bits: u32,
}

/// A header whose hash meets its work's target.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    /// The job it was found for.
    pub(crate) work: Arc<Work>,
    /// Extranonce2, of the job's size.
    pub(crate) extranonce2: Vec<u8>,
    /// The rolled bits, inside the mask.
    pub(crate) version_bits: u32,
    /// The nonce.
    pub(crate) nonce: u32,
}

impl Template {
    /// How many claims there are before a header would come up again.
    fn claims(&self) -> u64 {
        let bits = self.extranonce2_bits() + self.version_mask.count_ones() + (32 - NONCE_BITS);
        1u64.checked_shl(bits).unwrap_or(u64::MAX)
    }

    /// Bits of extranonce2 that are rolled: a claim's number has no more than 64.
    fn extranonce2_bits(&self) -> u32 {
        u32::try_from(self.extranonce2_size * 8)
            .unwrap_or(u32::MAX)
            .min(u64::BITS)
    }

    /// Maps a claim's number to its place. Each number within [`Template::claims`] of another has another place:
    /// extranonce2 is its lowest bits, and with a fixed extranonce2 the rest selects version bits and nonces, turned by
    /// an amount that depends on extranonce2 alone so that all three change with every claim.
    #[allow(clippy::cast_possible_truncation)] // Each value is masked to what its type holds.
    fn claim(&self, number: u64) -> Claim {
        let low_bits = |bits: u32| 1u64.checked_shl(bits).map_or(u64::MAX, |end| end - 1);
        let version_bits = self.version_mask.count_ones();

        let counter = number & low_bits(self.extranonce2_bits());
        let rest = number.checked_shr(self.extranonce2_bits()).unwrap_or(0);
        let roll = rest.wrapping_add(counter) & low_bits(version_bits);
        let turn = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        let range = (rest >> version_bits).wrapping_add(turn) & low_bits(32 - NONCE_BITS);

        let extranonce2 = extranonce2(counter, self.extranonce2_size);
        let version_bits = scatter(roll as u32, self.version_mask);
        let txid = header::coinbase_txid(&[&self.coinbase_start, &extranonce2, &self.coinbase_end]);
        Claim {
            header: Header {
                version: (self.version & !self.version_mask) | version_bits,
                prev_hash: self.prev_hash,
                merkle_root: header::merkle_root(txid, &self.merkle_path),
                ntime: self.ntime,
                nbits: self.nbits,
                nonce: (range as u32) << NONCE_BITS,
            },
            extranonce2,
            version_bits,
        }
    }
}

/// A number as `size` bytes, most significant first.
fn extranonce2(counter: u64, size: usize) -> Vec<u8> {
    let counter = counter.to_be_bytes();
    let mut bytes = vec![0; size.saturating_sub(counter.len())];
    bytes.extend_from_slice(&counter[counter.len() - size.min(counter.len())..]);
    bytes
}

/// Spreads the low bits of `value` over the set bits of `mask`.
fn scatter(value: u32, mut mask: u32) -> u32 {
    let mut spread = 0;
    let mut from = 0;
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if value >> from & 1 == 1 {
            spread |= lowest;
        }
        mask ^= lowest;
        from += 1;
    }
    spread
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    pub(crate) fn template(extranonce2_size: usize, version_mask: u32) -> Template {
        Template {
            coinbase_start: vec![1, 2, 3],
            coinbase_end: vec![4, 5],
            extranonce2_size,
            merkle_path: vec![[6; 32]],
            prev_hash: [7; 32],
            version: 0x2000_0000,
            version_mask,
            ntime: 1_700_000_000,
            nbits: 0x207f_ffff,
        }
    }

    fn work(template: Template, claims: &Claims, previous: Option<&Work>) -> Work {
        Work::new(
            "job".to_owned(),
            Epoch::default(),
            Difficulty::ONE,
            template,
            claims,
            previous,
        )
    }

    /// What tells one header's search from another's.
    type Place = (u32, [u8; 32], u32);

    fn place(claim: &Claim) -> Place {
        (
            claim.header.version,
            claim.header.merkle_root,
            claim.header.nonce,
        )
    }

    #[test]
    fn a_small_space_is_searched_evenly_and_once() {
        // One byte of extranonce2, two version bits and 2^16 ranges of nonces, of which 16 are looked at.
        let template = template(1, 0x0100_2000);
        assert_eq!(template.claims(), 1 << 26);
        let mut seen = HashSet::new();
        for number in 0..(1u64 << 10) * 16 {
            let claim = template.claim(number);
            assert_eq!(claim.header.version & !template.version_mask, 0x2000_0000);
            assert!(seen.insert((claim.extranonce2, claim.version_bits, claim.header.nonce)));
        }
        assert_eq!(
            seen.iter()
                .map(|place| &place.0)
                .collect::<HashSet<_>>()
                .len(),
            256
        );
        assert_eq!(
            seen.iter()
                .map(|place| place.1)
                .collect::<HashSet<_>>()
                .len(),
            4
        );
    }

    #[test]
    fn without_anything_to_roll_the_nonces_are_the_whole_space() {
        let claims = Claims::default();
        let work = work(template(0, 0), &claims, None);
        let mut nonces = HashSet::new();
        while let Some(claim) = work.claim() {
            assert!(claim.extranonce2.is_empty());
            assert!(nonces.insert(claim.header.nonce));
        }
        assert_eq!(nonces.len(), 1 << 16);
        assert!(work.claim().is_none(), "a space that is used up stays so");
        let again = self::work(template(0, 0), &claims, Some(&work));
        assert!(
            again.claim().is_none(),
            "the same headers under another job id"
        );
        let other = self::work(
            Template {
                ntime: 1,
                ..template(0, 0)
            },
            &claims,
            Some(&work),
        );
        assert!(other.claim().is_some(), "new headers begin anew");
    }

    #[test]
    fn extranonce2_and_version_change_with_every_claim() {
        let work = work(template(4, BIP320_MASK), &Claims::default(), None);
        let first = work.claim().unwrap();
        let second = work.claim().unwrap();
        assert_ne!(first.extranonce2, second.extranonce2);
        assert_ne!(first.version_bits, second.version_bits);
        assert_ne!(first.header.nonce, second.header.nonce);
        assert_eq!(second.header.ntime, 1_700_000_000);
    }

    #[test]
    fn extranonce2_fills_its_size() {
        assert_eq!(extranonce2(0x0102, 0), Vec::<u8>::new());
        assert_eq!(extranonce2(0x0102, 2), [1, 2]);
        assert_eq!(extranonce2(0x0102, 10), [0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(extranonce2(1, 32).len(), 32);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Threads on the same work, the same work sent again, and other work in between: no header comes twice.
        #[test]
        fn no_header_is_searched_twice(
            size in 0usize..6,
            mask in prop_oneof![Just(BIP320_MASK), any::<u32>(), Just(0u32)],
            jobs in prop::collection::vec((0u32..3, 1usize..200), 1..8),
        ) {
            let claims = Claims::default();
            let mut seen: HashSet<Place> = HashSet::new();
            let mut current: Option<Work> = None;
            for (ntime, count) in jobs {
                // Three different templates come and go; the merkle root tells them apart.
                let mut template = template(size, mask);
                template.coinbase_end.extend_from_slice(&ntime.to_le_bytes());
                let work = work(template, &claims, current.as_ref());
                for _ in 0..count {
                    let Some(claim) = work.claim() else { break };
                    prop_assert!(seen.insert(place(&claim)), "searched twice: {claim:?}");
                }
                current = Some(work);
            }
        }

        #[test]
        fn distinct_numbers_are_distinct_places(
            size in 0usize..9, mask: u32, a: u64, distance in 1u64..1 << 48,
        ) {
            let template = template(size, mask);
            let distance = distance % template.claims();
            prop_assume!(distance != 0);
            let (a, b) = (template.claim(a), template.claim(a.wrapping_add(distance)));
            let key = |claim: &Claim| (claim.extranonce2.clone(), claim.version_bits, claim.header.nonce);
            prop_assert_ne!(key(&a), key(&b));
        }

        #[test]
        fn scattered_bits_stay_inside_the_mask(value: u32, mask: u32) {
            let spread = scatter(value, mask);
            prop_assert_eq!(spread & !mask, 0);
            let kept = 1u32.checked_shl(mask.count_ones()).map_or(u32::MAX, |end| end - 1);
            prop_assert_eq!(spread.count_ones(), (value & kept).count_ones());
        }
    }
}
