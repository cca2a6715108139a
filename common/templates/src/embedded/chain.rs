//! The embedded chain's rules: those of a Bitcoin node for blocks without transactions, with a difficulty that follows
//! the hashrate from block to block.

use std::{collections::VecDeque, sync::Arc};

use bitcoin::{Block, BlockHash, Transaction, consensus::encode::deserialize, hashes::Hash};
use primitive_types::U256;
use work::{Header, Target};

use crate::{
    Body, CoinbaseTemplate, EmbeddedConfig, Fate, FateError, Template,
    block::{self, COMMITMENT_MARKER, WITNESS_RESERVED},
};

/// The most that a header's time may be ahead of the clock, as nodes have it.
const MAX_FUTURE_SECONDS: u32 = 2 * 60 * 60;
/// How many blocks the median time is taken over.
const MEDIAN_TIME_SPAN: usize = 11;
/// How many blocks the fate of a block can be told for.
const REMEMBERED: usize = 10_000;
/// The difficulty moves by this part of the last interval's error: settles in some tens of blocks, does not swing.
const ADJUSTMENT_BLOCKS: u64 = 8;
/// Blocks between halvings, and the first subsidy, as on the main chain.
const HALVING_INTERVAL: u32 = 210_000;
const FIRST_SUBSIDY: u64 = 50 * 100_000_000;

/// The tip, and what the next block's rules depend on.
pub(crate) struct Chain {
    tip: Tip,
    /// Hashes of the last blocks, the tip at the end.
    hashes: VecDeque<[u8; 32]>,
    /// Times of the last blocks, the newest at the end.
    times: VecDeque<u32>,
    target: U256,
    easiest: U256,
    interval: u64,
    last_template: u64,
}

/// What a block that is no fault became.
pub(crate) enum Extended {
    /// The tip, which is this now.
    By(Tip),
    /// Nothing new: the chain has it.
    Already,
}

/// The newest block.
#[derive(Clone, Copy)]
pub(crate) struct Tip {
    pub(crate) height: u32,
    pub(crate) hash: [u8; 32],
}

impl Tip {
    pub(crate) fn display(&self) -> BlockHash {
        BlockHash::from_byte_array(self.hash)
    }
}

impl Chain {
    /// A chain whose first block is made now, so that no two processes share one.
    pub(crate) fn new(config: &EmbeddedConfig, now: u32) -> Self {
        let target = target_of(config.first_block_hashes);
        let genesis = Header {
            version: 1,
            prev_hash: [0; 32],
            merkle_root: rand::random(),
            ntime: now,
            nbits: compact(target),
            nonce: 0,
        };
        let hash = genesis.hash();
        Self {
            tip: Tip { height: 0, hash },
            hashes: VecDeque::from([hash]),
            times: VecDeque::from([now]),
            target,
            easiest: target_of(config.minimum_block_hashes),
            interval: config.block_interval_seconds.into(),
            last_template: 0,
        }
    }

    /// A new template on the tip.
    pub(crate) fn template(&mut self, now: u32) -> Template {
        self.last_template += 1;
        let height = self.tip.height + 1;
        let min_ntime = self.median_time().saturating_add(1);
        Template {
            id: self.last_template,
            prev_hash: self.tip.hash,
            min_ntime,
            ntime: now.max(min_ntime),
            nbits: compact(self.target),
            version: 0x2000_0000,
            coinbase: CoinbaseTemplate {
                version: 2,
                script_prefix: block::height_prefix(height),
                sequence: u32::MAX,
                value_remaining: subsidy(height),
                outputs: block::valueless_output(&commitment_script()),
                outputs_count: 1,
                locktime: 0,
            },
            merkle_path: Vec::new(),
            body: Body::Transactions(Arc::new([])),
        }
    }

    /// Checks a block from its header to its last output, and makes it the tip. The error is in the words of a node.
    pub(crate) fn extend(&mut self, block: &[u8], now: u32) -> Result<Extended, String> {
        let block: Block =
            deserialize(block).map_err(|error| format!("Block decode failed ({error})"))?;
        let header = header_of(&block);
        if self.hashes.contains(&header.hash()) {
            return Ok(Extended::Already);
        }
        if header.prev_hash != self.tip.hash {
            return Err("stale-prevblk".to_owned());
        }
        self.check_header(&header, now)?;
        if !block.check_merkle_root() {
            return Err("bad-txnmrklroot".to_owned());
        }
        let [coinbase] = block.txdata.as_slice() else {
            return Err("bad-txns-inputs-missingorspent".to_owned());
        };
        check_coinbase(coinbase, self.tip.height + 1)?;

        let previous = self.times.back().copied().unwrap_or(header.ntime);
        self.retarget(header.ntime.saturating_sub(previous).into());
        self.tip = Tip {
            height: self.tip.height + 1,
            hash: header.hash(),
        };
        push(&mut self.hashes, self.tip.hash, REMEMBERED);
        push(&mut self.times, header.ntime, MEDIAN_TIME_SPAN);
        Ok(Extended::By(self.tip))
    }

    /// There are no branches here, so a block that is not in the chain is replaced as soon as its height is reached.
    pub(crate) fn fate(&self, hash: [u8; 32], height: u32) -> Result<Fate, FateError> {
        let Some(above) = self.tip.height.checked_sub(height) else {
            return Ok(Fate::Missing);
        };
        match self.hashes.iter().rev().nth(above as usize) {
            None => Err(FateError::NotKnown(
                "the embedded chain has forgotten blocks of this height",
            )),
            Some(found) if *found == hash => Ok(Fate::InChain {
                confirmations: above + 1,
            }),
            Some(_) => Ok(Fate::Orphaned),
        }
    }

    fn check_header(&self, header: &Header, now: u32) -> Result<(), &'static str> {
        if header.nbits != compact(self.target) {
            return Err("bad-diffbits");
        }
        let target = Target::from_compact(header.nbits).map_err(|_| "bad-diffbits")?;
        if !target.is_met_by(&header.hash()) {
            return Err("high-hash");
        }
        if header.ntime <= self.median_time() {
            return Err("time-too-old");
        }
        if header.ntime > now.saturating_add(MAX_FUTURE_SECONDS) {
            return Err("time-too-new");
        }
        // Versions are signed; those below 4 ended with BIP 65.
        if header.version.cast_signed() < 4 {
            return Err("bad-version");
        }
        Ok(())
    }

    /// Moves the target by a part of how far the last interval was off.
    fn retarget(&mut self, took: u64) {
        let span = self.interval * ADJUSTMENT_BLOCKS;
        // One long silence must not undo what many blocks have found out.
        let weight = span + took.min(6 * self.interval) - self.interval;
        let moved = (self.target / U256::from(span)).saturating_mul(U256::from(weight));
        self.target = moved.clamp(U256::one(), self.easiest);
    }

    fn median_time(&self) -> u32 {
        let mut times: Vec<u32> = self.times.iter().copied().collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or(0)
    }
}

fn header_of(block: &Block) -> Header {
    Header {
        version: block.header.version.to_consensus().cast_unsigned(),
        prev_hash: block.header.prev_blockhash.to_byte_array(),
        merkle_root: block.header.merkle_root.to_byte_array(),
        ntime: block.header.time,
        nbits: block.header.bits.to_consensus(),
        nonce: block.header.nonce,
    }
}

/// Appends, and forgets the oldest beyond `most`.
fn push<T>(values: &mut VecDeque<T>, value: T, most: usize) {
    values.push_back(value);
    if values.len() > most {
        values.pop_front();
    }
}

fn check_coinbase(coinbase: &Transaction, height: u32) -> Result<(), &'static str> {
    let [input] = coinbase.input.as_slice() else {
        return Err("bad-cb-multiple");
    };
    if !coinbase.is_coinbase() {
        return Err("bad-cb-missing");
    }
    if !(2..=100).contains(&input.script_sig.len()) {
        return Err("bad-cb-length");
    }
    if !input
        .script_sig
        .as_bytes()
        .starts_with(&block::height_prefix(height))
    {
        return Err("bad-cb-height");
    }
    let paid = coinbase
        .output
        .iter()
        .try_fold(0u64, |sum, output| sum.checked_add(output.value.to_sat()));
    if paid.is_none_or(|paid| paid > subsidy(height)) {
        return Err("bad-cb-amount");
    }
    if coinbase.output.is_empty() {
        return Err("bad-txns-vout-empty");
    }
    if !coinbase.is_absolute_timelock_satisfied(
        bitcoin::absolute::Height::from_consensus(height).map_err(|_| "bad-cb-height")?,
        bitcoin::absolute::Time::MIN,
    ) {
        return Err("bad-txns-nonfinal");
    }
    check_commitment(coinbase)
}

/// BIP 141: the last output that looks like a commitment is one, and without any there may be no witness.
fn check_commitment(coinbase: &Transaction) -> Result<(), &'static str> {
    let witness = &coinbase.input[0].witness;
    let commitment = coinbase
        .output
        .iter()
        .rev()
        .map(|output| output.script_pubkey.as_bytes());
    let commitment = commitment
        .filter(|script| script.len() >= 38)
        .find(|script| script.starts_with(&COMMITMENT_MARKER));
    match commitment {
        None if witness.is_empty() => Ok(()),
        None => Err("unexpected-witness"),
        Some(_) if witness.len() != 1 || witness[0].len() != 32 => Err("bad-witness-nonce-size"),
        Some(_) if witness[0] != WITNESS_RESERVED => Err("bad-witness-merkle-match"),
        Some(script) if script[6..38] != block::witness_commitment(&[]) => {
            Err("bad-witness-merkle-match")
        }
        Some(_) => Ok(()),
    }
}

fn commitment_script() -> Vec<u8> {
    [&COMMITMENT_MARKER[..], &block::witness_commitment(&[])].concat()
}

fn subsidy(height: u32) -> u64 {
    FIRST_SUBSIDY
        .checked_shr(height / HALVING_INTERVAL)
        .unwrap_or(0)
}

/// The target that takes this many hashes on average.
fn target_of(hashes: u64) -> U256 {
    U256::MAX / U256::from(hashes.max(1))
}

fn compact(target: U256) -> u32 {
    bitcoin::Target::from_le_bytes(target.to_little_endian())
        .to_compact_lossy()
        .to_consensus()
}

#[cfg(test)]
mod tests {
    use bitcoin::{
        Amount, OutPoint, ScriptBuf, TxIn, TxOut, Txid, Witness, absolute::LockTime,
        consensus::encode::serialize,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::{Solution, testing};

    /// A node's reason, and what earns it.
    type Breakage<'a, T> = (&'a str, &'a dyn Fn(&mut T));

    const NOW: u32 = 1_800_000_000;

    fn extend(chain: &mut Chain, solution: &Solution, now: u32) -> Result<u32, String> {
        match chain.extend(&solution.block().unwrap(), now)? {
            Extended::By(tip) => Ok(tip.height),
            Extended::Already => panic!("the chain has this block"),
        }
    }

    fn easy(hashes: u64) -> Chain {
        Chain::new(
            &EmbeddedConfig {
                first_block_hashes: hashes,
                minimum_block_hashes: 2,
                ..EmbeddedConfig::default()
            },
            NOW,
        )
    }

    #[test]
    fn the_chain_grows_block_by_block_through_every_length_of_height() {
        let mut chain = easy(2);
        for height in 1..=140 {
            let template = Arc::new(chain.template(NOW + height * 20));
            assert_eq!(template.height(), Some(height));
            let solution = testing::solve(&template, |_| {});
            assert_eq!(extend(&mut chain, &solution, NOW + height * 20), Ok(height));
        }
    }

    #[test]
    fn a_header_that_breaks_a_rule_is_refused_in_the_words_of_a_node() {
        let mut chain = easy(2);
        let template = Arc::new(chain.template(NOW));
        let cases: [Breakage<Solution>; 4] = [
            ("time-too-old", &|solution| {
                solution.ntime = solution.template.min_ntime - 1
            }),
            ("time-too-new", &|solution| {
                solution.ntime = NOW + MAX_FUTURE_SECONDS + 1
            }),
            ("bad-version", &|solution| solution.version = 3),
            ("bad-version", &|solution| solution.version = 0x8000_0000),
        ];
        for (reason, change) in cases {
            let solution = testing::solve(&template, change);
            assert_eq!(extend(&mut chain, &solution, NOW), Err(reason.to_owned()));
        }
        let mut hard = easy(1 << 40);
        let template = Arc::new(hard.template(NOW));
        let unsolved = testing::unsolved(&template);
        assert_eq!(
            extend(&mut hard, &unsolved, NOW),
            Err("high-hash".to_owned())
        );
    }

    #[test]
    fn a_coinbase_that_breaks_a_rule_is_refused_in_the_words_of_a_node() {
        let mut chain = easy(2);
        let template = Arc::new(chain.template(NOW));
        let cases: [Breakage<Transaction>; 11] = [
            ("bad-cb-amount", &|tx| {
                tx.output[0].value += Amount::from_sat(1)
            }),
            ("bad-cb-amount", &|tx| {
                tx.output.extend(vec![
                    TxOut {
                        value: Amount::from_sat(u64::MAX),
                        script_pubkey: ScriptBuf::new()
                    };
                    2
                ])
            }),
            ("bad-cb-height", &|tx| {
                tx.input[0].script_sig = ScriptBuf::from_bytes(vec![0x52, 0, 0])
            }),
            ("bad-cb-length", &|tx| {
                tx.input[0].script_sig = ScriptBuf::from_bytes(vec![0x51])
            }),
            ("bad-cb-length", &|tx| {
                tx.input[0].script_sig = ScriptBuf::from_bytes([vec![0x51], vec![0; 100]].concat())
            }),
            ("bad-cb-missing", &|tx| {
                tx.input[0].previous_output = OutPoint::new(Txid::all_zeros(), 0)
            }),
            ("bad-cb-multiple", &|tx| tx.input.push(TxIn::default())),
            ("bad-txns-nonfinal", &|tx| {
                tx.lock_time = LockTime::from_consensus(10);
                tx.input[0].sequence = bitcoin::Sequence::ZERO;
            }),
            ("bad-witness-nonce-size", &|tx| {
                tx.input[0].witness = Witness::new()
            }),
            ("bad-witness-merkle-match", &|tx| {
                tx.input[0].witness = Witness::from_slice(&[[1; 32]])
            }),
            ("unexpected-witness", &|tx| tx.output.truncate(1)),
        ];
        for (reason, change) in cases {
            let solution = testing::solve(&template, |solution| {
                let mut coinbase = bitcoin::consensus::deserialize(&solution.coinbase).unwrap();
                change(&mut coinbase);
                solution.coinbase = serialize(&coinbase);
            });
            assert_eq!(extend(&mut chain, &solution, NOW), Err(reason.to_owned()));
        }
    }

    #[test]
    fn a_block_that_is_not_what_its_header_says_is_refused() {
        let mut chain = easy(2);
        let template = Arc::new(chain.template(NOW));
        let solution = testing::solve(&template, |_| {});
        let whole = solution.block().unwrap();
        let mut other: Block = deserialize(&whole).unwrap();
        other.txdata[0].output[0].value -= Amount::ONE_SAT;
        let reason = chain.extend(&serialize(&other), NOW).err();
        assert_eq!(reason.as_deref(), Some("bad-txnmrklroot"));
        let reason = chain.extend(&whole[..whole.len() - 1], NOW).err().unwrap();
        assert!(reason.starts_with("Block decode failed"), "{reason}");
        assert_eq!(extend(&mut chain, &solution, NOW), Ok(1));
    }

    #[test]
    fn the_fate_of_a_block_that_is_long_gone_is_not_made_up() {
        let mut chain = easy(2);
        let hash = chain.tip.hash;
        assert_eq!(chain.fate(hash, 0), Ok(Fate::InChain { confirmations: 1 }));
        assert_eq!(chain.fate([0; 32], 1), Ok(Fate::Missing));
        chain.hashes = (0..REMEMBERED as u64).map(|_| [1; 32]).collect();
        chain.tip.height = 20_000;
        assert_eq!(chain.fate([2; 32], 10_001), Ok(Fate::Orphaned));
        assert!(matches!(
            chain.fate(hash, 10_000),
            Err(FateError::NotKnown(_))
        ));
    }

    proptest! {
        /// A miner of steady hashrate, with the mean solve time for each difficulty, ends near the interval.
        #[test]
        fn the_difficulty_finds_the_hashrate(log_rate in 18.0f64..34.0) {
            let config = EmbeddedConfig { minimum_block_hashes: 2, ..EmbeddedConfig::default() };
            let mut chain = Chain::new(&config, NOW);
            let mut took = 0.0;
            for _ in 0..150 {
                let hashes = Target::from_compact(compact(chain.target)).unwrap().work() as f64;
                took = hashes / log_rate.exp2();
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                chain.retarget(took.round() as u64);
            }
            prop_assert!((15.0..27.0).contains(&took), "{took}");
        }

        #[test]
        fn no_time_makes_the_difficulty_leave_its_bounds(times in proptest::collection::vec(any::<u32>(), 1..300)) {
            let mut chain = Chain::new(&EmbeddedConfig::default(), NOW);
            for took in times {
                chain.retarget(took.into());
                prop_assert!(chain.target <= chain.easiest);
                prop_assert!(Target::from_compact(compact(chain.target)).is_ok());
            }
        }
    }
}
