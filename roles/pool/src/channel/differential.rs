//! Our judgement of shares beside that of `channels_sv2`, which is the reference for what a valid share is.
//!
//! Both get the same templates, tips, targets, prefixes and shares, and build their jobs themselves. Where they may
//! differ, [`Difference`] says so; anything else fails.

use std::{collections::HashSet, time::Duration};

use bitcoin::{Amount, ScriptBuf, TxOut, hashes::Hash};
use proptest::prelude::*;
use stratum_core::{
    binary_sv2::U256Owned,
    channels_sv2::{
        extranonce_manager::ExtranonceAllocator,
        server::{
            extended::ExtendedChannel,
            share_accounting::{ShareValidationError, ShareValidationResult},
        },
    },
    mining_sv2::SubmitSharesExtendedOwned,
    template_distribution_sv2::{NewTemplateOwned, SetNewPrevHashOwned},
};
use templates::Template;
use work::{Header, header};

use super::*;
use crate::{
    job::{Recipe, tests::template},
    limits::Places,
};

const SCRIPT: [u8; 1] = [0x51];
/// Theirs puts a tag into these; then both coinbases are the same.
const TAG: &str = "Sv2/hashpool//";
const THEIR_TAG: &str = "hashpool";
const EXTRANONCE: usize = 16;

/// Something that happens to a channel.
#[derive(Debug, Clone)]
enum Event {
    Tip { nbits: u32 },
    Job,
    Target { leading_zero_bits: u32 },
    Prefix,
    Share(Attempt),
}

/// A share in terms of what both know.
#[derive(Debug, Clone)]
struct Attempt {
    /// Counted from the newest; one that does not exist is unknown.
    job: usize,
    nonce: u32,
    ntime_offset: i64,
    version_change: u32,
    extranonce: Vec<u8>,
}

fn event() -> impl Strategy<Value = Event> {
    let share = (
        prop_oneof![4 => Just(0_usize), 3 => 0_usize..4, 1 => 0_usize..100],
        0_u32..6,
        prop_oneof![6 => Just(0_i64), 1 => Just(1), 1 => Just(-1), 1 => Just(7200), 1 => Just(7201)],
        prop_oneof![
            6 => Just(0_u32),
            1 => Just(0x2000),
            1 => Just(0x1fff_ffe0),
            1 => (0_u32..32).prop_map(|bit| 1 << bit),
        ],
        prop_oneof![
            9 => (0_u8..2).prop_map(|byte| vec![byte; EXTRANONCE - PREFIX_SIZE]),
            1 => (0_usize..33).prop_map(|size| vec![0; size]),
        ],
    );
    prop_oneof![
        1 => prop_oneof![Just(0x1d00_ffff), Just(0x207f_ffff), Just(0x2007_ffff)]
            .prop_map(|nbits| Event::Tip { nbits }),
        1 => Just(Event::Job),
        1 => (0_u32..6).prop_map(|leading_zero_bits| Event::Target { leading_zero_bits }),
        1 => Just(Event::Prefix),
        16 => share.prop_map(|(job, nonce, ntime_offset, version_change, extranonce)| {
            Event::Share(Attempt { job, nonce, ntime_offset, version_change, extranonce })
        }),
    ]
}

/// A job that both channels were given.
struct Given {
    id: u32,
    job: Arc<Job>,
    target: Target,
    prefix: Prefix,
    /// Which tip it is for, and how many prefixes there had been; both only count up.
    tip: u32,
    prefixes: u32,
}

struct Pair {
    ours: Channel,
    theirs: ExtendedChannel,
    allocator: ExtranonceAllocator,
    jobs: Vec<Given>,
    tip: u32,
    nbits: u32,
    prefixes: u32,
    target: Target,
    /// Headers that were offered as blocks.
    offered: HashSet<[u8; 32]>,
    now: Instant,
}

/// Where ours is meant to be another.
#[derive(Debug, PartialEq, Eq)]
enum Difference {
    None,
    /// The network asks less than the job, which happens on test networks alone. Theirs counts the block as a share; ours
    /// hands it over, and counts what meets the job's target.
    BlockBelowTarget,
    /// Theirs forgets which jobs there were two tips ago; ours calls their shares stale.
    LongPast,
    /// Theirs takes shares under every prefix that a job had; ours only those of the last two, so that what it has to
    /// remember stays bounded.
    OldPrefix,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let mut allocator = ExtranonceAllocator::new(
            vec![7; PREFIX_SIZE - 1],
            u8::try_from(EXTRANONCE).unwrap(),
            255,
        )
        .unwrap();
        let rolled = EXTRANONCE - PREFIX_SIZE;
        let theirs = ExtendedChannel::new_for_pool(
            1,
            "alice.rig".to_owned(),
            allocator.allocate_extended(rolled).unwrap(),
            bitcoin::Target::from_le_bytes([0xff; 32]),
            1.0,
            true,
            u16::try_from(rolled).unwrap(),
            1,
            1000.0,
            THEIR_TAG.to_owned(),
            Some(JOBS_KEPT),
        )
        .unwrap();
        let opening = Opening {
            kind: Kind::Extended,
            owner: Owner::new("alice.rig"),
            payee: None,
            nominal: Hashrate::ZERO,
            max_target: Target::MAX,
            extranonce_size: EXTRANONCE,
            place: Places::new(1).take().unwrap(),
        };
        let clamp = |max_target| Clamp {
            network: Target::MIN,
            max_target,
            pool_minimum: Target::MAX,
        };
        let prefix = theirs.get_extranonce_prefix().try_into().unwrap();
        let mut pair = Self {
            ours: Channel::open(1, opening, prefix, 6.0, clamp, now),
            theirs,
            allocator,
            jobs: Vec::new(),
            tip: 0,
            nbits: 0,
            prefixes: 0,
            target: Target::MAX,
            offered: HashSet::new(),
            now,
        };
        pair.set_target(0);
        pair.change_tip(0x1d00_ffff);
        pair
    }

    fn handle(&mut self, event: Event) {
        self.now += Duration::from_secs(1);
        match event {
            Event::Tip { nbits } => self.change_tip(nbits),
            Event::Job => self.give_job(false),
            Event::Target { leading_zero_bits } => self.set_target(leading_zero_bits),
            Event::Prefix => {
                self.prefixes += 1;
                let rolled = EXTRANONCE - PREFIX_SIZE;
                let prefix = self.allocator.allocate_extended(rolled).unwrap();
                self.theirs.set_extranonce_prefix(prefix).unwrap();
                let prefix = self.theirs.get_extranonce_prefix().try_into().unwrap();
                self.ours.set_prefix(prefix);
                self.give_job(false);
            }
            Event::Share(attempt) => self.submit(&attempt),
        }
    }

    fn set_target(&mut self, leading_zero_bits: u32) {
        let mut bytes = [0xff; 32];
        bytes[31] >>= leading_zero_bits;
        self.target = Target::from_le_bytes(bytes).unwrap();
        self.ours.set_target(self.target);
        self.theirs
            .set_target(bitcoin::Target::from_le_bytes(bytes))
            .unwrap();
    }

    fn change_tip(&mut self, nbits: u32) {
        self.tip += 1;
        self.nbits = nbits;
        self.give_job(true);
    }

    /// Gives both a job, and checks that it is the same.
    fn give_job(&mut self, new_tip: bool) {
        let number = u64::try_from(self.jobs.len()).unwrap() + 1;
        let mut template = template(number, u8::try_from(self.tip).unwrap());
        template.nbits = self.nbits;
        template.coinbase.value_remaining += number;
        let outputs = vec![TxOut {
            value: Amount::from_sat(template.coinbase.value_remaining),
            script_pubkey: ScriptBuf::from_bytes(SCRIPT.to_vec()),
        }];
        self.theirs
            .on_new_template(their_template(&template, new_tip), outputs)
            .unwrap();
        if new_tip {
            self.theirs
                .on_set_new_prev_hash(SetNewPrevHashOwned {
                    template_id: template.id,
                    prev_hash: U256Owned::from(template.prev_hash),
                    header_timestamp: template.ntime,
                    n_bits: template.nbits,
                    target: U256Owned::from([0; 32]),
                })
                .unwrap();
        }
        let active = self.theirs.get_active_job().unwrap();
        let recipe = Recipe {
            payout: SCRIPT.to_vec(),
            tag: TAG.to_owned(),
        };
        let network = Target::from_compact(template.nbits).unwrap();
        let job = Arc::new(Job::new(Arc::new(template), network, &recipe, EXTRANONCE));
        let id = active.get_job_id();
        self.ours.job_sent(id, Arc::clone(&job), self.now);
        let prefix: Prefix = active.get_extranonce_prefix().try_into().unwrap();
        let rolled = [9; EXTRANONCE - PREFIX_SIZE];
        let theirs = [
            active.get_coinbase_tx_prefix_with_bip141(),
            [&prefix[..], &rolled].concat(),
            active.get_coinbase_tx_suffix_with_bip141(),
        ];
        assert_eq!(job.coinbase([&prefix, &rolled]), theirs.concat());
        self.jobs.push(Given {
            id,
            job,
            target: self.target,
            prefix,
            tip: self.tip,
            prefixes: self.prefixes,
        });
    }

    fn submit(&mut self, attempt: &Attempt) {
        let given = self.jobs.iter().rev().nth(attempt.job);
        let template = |given: &Given| (given.job.template.ntime, given.job.template.version);
        let (ntime, version) = given.map_or((1_700_000_100, 0x2000_0000), template);
        let job_id = given.map_or(u32::MAX, |given| given.id);
        let claim = Claim {
            version: version ^ attempt.version_change,
            ntime: u32::try_from(i64::from(ntime) + attempt.ntime_offset).unwrap(),
            nonce: attempt.nonce,
        };
        let share = Share {
            job_id,
            claim,
            extranonce: &attempt.extranonce,
        };
        let ours = self.ours.judge(share, given.is_some(), self.now);
        let theirs = self.theirs.validate_share(SubmitSharesExtendedOwned {
            channel_id: 1,
            sequence_number: 1,
            job_id,
            nonce: claim.nonce,
            ntime: claim.ntime,
            version: claim.version,
            extranonce: attempt.extranonce.clone().try_into().unwrap(),
        });
        let difference = given.map_or(Difference::None, |given| self.difference(given));
        compare(&ours, &theirs, &difference);
        // Of older jobs nothing may be left.
        if let Some(given) = given.filter(|_| attempt.job < PAST_JOBS_KEPT)
            && let Some(hash) = self.block(given, attempt, claim)
            && self.offered.insert(hash)
        {
            let solved = ours.solution.as_ref();
            assert_eq!(solved.map(|solved| solved.hash), Some(hash), "a lost block");
        }
    }

    fn difference(&self, given: &Given) -> Difference {
        if given.tip + 1 < self.tip {
            Difference::LongPast
        } else if given.tip == self.tip && given.prefixes + 1 < self.prefixes {
            Difference::OldPrefix
        } else if given.tip == self.tip && given.target < given.job.network_target {
            Difference::BlockBelowTarget
        } else {
            Difference::None
        }
    }

    /// The header's hash, if it is a block that somebody could still want.
    fn block(&self, given: &Given, attempt: &Attempt, claim: Claim) -> Option<[u8; 32]> {
        if attempt.extranonce.len() != EXTRANONCE - PREFIX_SIZE || given.tip + 1 < self.tip {
            return None;
        }
        let template = &given.job.template;
        let coinbase = given.job.coinbase([&given.prefix, &attempt.extranonce]);
        let coinbase: bitcoin::Transaction = bitcoin::consensus::deserialize(&coinbase).unwrap();
        let txid = coinbase.compute_txid().to_byte_array();
        let header = Header {
            version: claim.version,
            prev_hash: template.prev_hash,
            merkle_root: header::merkle_root(txid, &template.merkle_path),
            ntime: claim.ntime,
            nbits: template.nbits,
            nonce: claim.nonce,
        };
        let hash = header.hash();
        given.job.network_target.is_met_by(&hash).then_some(hash)
    }
}

fn compare(
    ours: &Verdict,
    theirs: &Result<ShareValidationResult, ShareValidationError>,
    difference: &Difference,
) {
    let code = |rejection: Rejection| rejection.code();
    let our_code = ours.counts.map_err(code);
    let their_code = match theirs {
        Ok(_) => Ok(()),
        Err(
            ShareValidationError::Invalid(code)
            | ShareValidationError::Stale(code)
            | ShareValidationError::InvalidJobId(code)
            | ShareValidationError::DoesNotMeetTarget(code)
            | ShareValidationError::VersionRollingNotAllowed(code)
            | ShareValidationError::DuplicateShare(code)
            | ShareValidationError::BadExtranonceSize(code),
        ) => Err(*code),
        Err(other) => panic!("{other:?}"),
    };
    let same = our_code.map(drop) == their_code;
    let as_meant = match difference {
        Difference::None => same,
        Difference::BlockBelowTarget => {
            same || matches!(
                (our_code, their_code),
                (Err("difficulty-too-low"), Ok(()) | Err("duplicate-share"))
            )
        }
        Difference::LongPast => {
            our_code == Err("stale-share") && their_code == Err("invalid-job-id")
        }
        Difference::OldPrefix => our_code == Err("stale-share"),
    };
    assert!(as_meant, "ours {ours:?}, theirs {theirs:?}: {difference:?}");
    // A block is one for both, with the same coinbase. Ours takes more of them: theirs asks its other rules first.
    if let Ok(ShareValidationResult::BlockFound(hash, _, coinbase)) = theirs {
        let solved = ours.solution.as_ref().expect("a block");
        assert_eq!(solved.hash, hash.to_byte_array());
        assert_eq!(&solved.solution.coinbase, coinbase);
    } else if theirs.is_ok() {
        assert!(ours.solution.is_none(), "no block: {ours:?}");
    }
}

fn their_template(template: &Template, future: bool) -> NewTemplateOwned {
    let path: Vec<_> = template
        .merkle_path
        .iter()
        .map(|n| U256Owned::from(*n))
        .collect();
    NewTemplateOwned {
        template_id: template.id,
        future_template: future,
        version: template.version,
        coinbase_tx_version: template.coinbase.version,
        coinbase_prefix: template.coinbase.script_prefix.clone().try_into().unwrap(),
        coinbase_tx_input_sequence: template.coinbase.sequence,
        coinbase_tx_value_remaining: template.coinbase.value_remaining,
        coinbase_tx_outputs_count: template.coinbase.outputs_count,
        coinbase_tx_outputs: template.coinbase.outputs.clone().try_into().unwrap(),
        coinbase_tx_locktime: template.coinbase.locktime,
        merkle_path: path.try_into().unwrap(),
    }
}

proptest! {
    #[test]
    fn a_share_is_worth_what_it_is_worth_to_the_reference(
        events in prop::collection::vec(event(), 1..120),
    ) {
        let mut pair = Pair::new();
        for event in events {
            pair.handle(event);
        }
    }
}
