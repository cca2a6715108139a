//! From a node's answer to `getblocktemplate` (BIP 22, BIP 23, BIP 145) to a template, or to what is wrong with it.

use std::{collections::HashMap, sync::Arc};

use bitcoin::{Transaction, consensus::encode::deserialize, hashes::Hash};
use serde::Deserialize;
use work::Target;

use super::client::quoted;
use crate::{
    BlockTransaction, Body, CoinbaseTemplate, MAX_BLOCK_WEIGHT, MAX_MONEY, Template,
    block::{self, COMMITMENT_MARKER},
};

/// Lock times from here on are times, so no height is above.
const MAX_HEIGHT: u32 = 500_000_000;
/// More than the commitment itself is allowed behind it (BIP 141), but nobody needs much.
const MAX_COMMITMENT_BYTES: usize = 1000;
const MAX_LONGPOLLID_BYTES: usize = 1000;
/// Rules of the chain that a miner must know when the node marks them with `!` (BIP 9).
const KNOWN_RULES: [&str; 5] = ["csv", "segwit", "taproot", "signet", "testdummy"];

/// A checked answer.
pub(crate) struct Checked {
    /// Its id is still to be given.
    pub(crate) template: Template,
    /// What to long-poll with.
    pub(crate) longpollid: String,
    /// The script that signet blocks have to satisfy (BIP 325).
    pub(crate) signet_challenge: Option<Vec<u8>>,
    /// The template's transactions, to share them with the next one.
    pub(crate) known: Known,
}

/// The transactions of the last template by witness id: those that are in the next one too are neither stored, nor
/// decoded, nor hashed again.
pub(crate) type Known = HashMap<[u8; 32], Arc<BlockTransaction>>;

/// An answer that is no template.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("getblocktemplate: {0}")]
pub(crate) struct Invalid(String);

#[derive(Deserialize)]
struct Answer<'a> {
    version: i32,
    previousblockhash: &'a str,
    transactions: Vec<AnswerTransaction<'a>>,
    coinbasevalue: u64,
    longpollid: String,
    mintime: u32,
    curtime: u32,
    bits: &'a str,
    height: u32,
    default_witness_commitment: Option<&'a str>,
    #[serde(default)]
    rules: Vec<String>,
    signet_challenge: Option<&'a str>,
}

#[derive(Deserialize)]
struct AnswerTransaction<'a> {
    data: &'a str,
    txid: &'a str,
    hash: &'a str,
    /// Satoshis; absent where it is not known (BIP 22).
    fee: Option<u64>,
    #[serde(default)]
    sigops: u64,
}

/// Checks everything that can be checked without the chain.
pub(crate) fn check(result: &str, before: &Known) -> Result<Checked, Invalid> {
    let answer: Answer<'_> =
        serde_json::from_str(result).map_err(|error| Invalid(quoted(&error.to_string())))?;
    let wrong = |field: &str, problem: &str| Invalid(format!("{field} {problem}"));

    if !(1..MAX_HEIGHT).contains(&answer.height) {
        return Err(wrong("height", &format!("{} cannot be", answer.height)));
    }
    if answer.coinbasevalue > MAX_MONEY {
        return Err(wrong(
            "coinbasevalue",
            &format!("{} is more than all coins", answer.coinbasevalue),
        ));
    }
    if answer.mintime > answer.curtime {
        return Err(wrong(
            "curtime",
            &format!("{} is before mintime {}", answer.curtime, answer.mintime),
        ));
    }
    if answer.longpollid.is_empty() || answer.longpollid.len() > MAX_LONGPOLLID_BYTES {
        return Err(wrong(
            "longpollid",
            &format!("has {} bytes", answer.longpollid.len()),
        ));
    }
    let unknown = |rule: &&String| {
        rule.strip_prefix('!')
            .is_some_and(|name| !KNOWN_RULES.contains(&name))
    };
    if let Some(rule) = answer.rules.iter().find(unknown) {
        return Err(wrong(
            "rules",
            &format!("need {}, which is not known here", quoted(rule)),
        ));
    }
    let nbits = array::<4>("bits", answer.bits).map(u32::from_be_bytes)?;
    Target::from_compact(nbits).map_err(|error| wrong("bits:", &error.to_string()))?;
    let signet_challenge = answer
        .signet_challenge
        .map(|script| hex::decode(script).map_err(|_| wrong("signet_challenge", "is not hex")))
        .transpose()?;

    let transactions = Transactions::check(&answer.transactions, before)?;
    let outputs = match answer.default_witness_commitment {
        Some(script) => check_commitment(script, &transactions.witness_ids)?,
        None if transactions.ids != transactions.witness_ids => {
            return Err(wrong(
                "default_witness_commitment",
                "is missing, but there are witnesses",
            ));
        }
        None => Vec::new(),
    };

    let template = Template {
        id: 0,
        prev_hash: hash("previousblockhash", answer.previousblockhash)?,
        min_ntime: answer.mintime,
        ntime: answer.curtime,
        nbits,
        version: answer.version.cast_unsigned(),
        coinbase: CoinbaseTemplate {
            version: 2,
            script_prefix: block::height_prefix(answer.height),
            sequence: u32::MAX,
            value_remaining: answer.coinbasevalue,
            outputs_count: u32::from(!outputs.is_empty()),
            outputs,
            locktime: 0,
        },
        merkle_path: block::merkle_path(&transactions.ids),
        body: Body::Transactions(transactions.all.into()),
    };
    Ok(Checked {
        template,
        longpollid: answer.longpollid,
        signet_challenge,
        known: transactions.known,
    })
}

#[derive(Default)]
struct Transactions {
    all: Vec<Arc<BlockTransaction>>,
    ids: Vec<[u8; 32]>,
    witness_ids: Vec<[u8; 32]>,
    known: Known,
}

impl Transactions {
    fn check(answers: &[AnswerTransaction<'_>], before: &Known) -> Result<Self, Invalid> {
        let mut all = Self::default();
        let mut total = 0;
        for (index, answer) in answers.iter().enumerate() {
            let named = |problem: String| Invalid(format!("transaction {index}: {problem}"));
            total += answer.data.len() as u64 / 2;
            if total > MAX_BLOCK_WEIGHT {
                return Err(named("the block is too large with it".to_owned()));
            }
            let id = hash("txid", answer.txid).map_err(|Invalid(problem)| named(problem))?;
            let witness_id =
                hash("hash", answer.hash).map_err(|Invalid(problem)| named(problem))?;
            let bytes =
                hex::decode(answer.data).map_err(|error| named(format!("data: {error}")))?;
            let transaction = match before.get(&witness_id) {
                Some(known)
                    if known.id == id
                        && *known.bytes == *bytes
                        && (known.fee, known.sigops) == (answer.fee, answer.sigops) =>
                {
                    Arc::clone(known)
                }
                _ => Arc::new(BlockTransaction {
                    fee: answer.fee,
                    sigops: answer.sigops,
                    ..decode(bytes, id, witness_id).map_err(named)?
                }),
            };
            all.all.push(Arc::clone(&transaction));
            all.ids.push(id);
            all.witness_ids.push(witness_id);
            if all.known.insert(witness_id, transaction).is_some() {
                return Err(named("is there twice".to_owned()));
            }
        }
        Ok(all)
    }
}

fn decode(bytes: Vec<u8>, id: [u8; 32], witness_id: [u8; 32]) -> Result<BlockTransaction, String> {
    let transaction: Transaction =
        deserialize(&bytes).map_err(|error| format!("does not decode: {error}"))?;
    if transaction.is_coinbase() {
        return Err("is a coinbase".to_owned());
    }
    if transaction.compute_txid().to_byte_array() != id {
        return Err("has another txid".to_owned());
    }
    if transaction.compute_wtxid().to_byte_array() != witness_id {
        return Err("has another hash".to_owned());
    }
    Ok(BlockTransaction {
        bytes: bytes.into(),
        id,
        witness_id,
        weight: transaction.weight().to_wu(),
        fee: None,
        sigops: 0,
    })
}

/// The commitment as an output, after computing it again.
fn check_commitment(script: &str, witness_ids: &[[u8; 32]]) -> Result<Vec<u8>, Invalid> {
    let wrong = |problem: &str| Invalid(format!("default_witness_commitment {problem}"));
    let script = hex::decode(script).map_err(|_| wrong("is not hex"))?;
    if !script.starts_with(&COMMITMENT_MARKER) || script.len() > MAX_COMMITMENT_BYTES {
        return Err(wrong("is no witness commitment"));
    }
    if script.get(6..38) != Some(&block::witness_commitment(witness_ids)) {
        return Err(wrong("does not commit to the transactions"));
    }
    Ok(block::valueless_output(&script))
}

/// A hash as nodes print it: reversed.
fn hash(field: &str, text: &str) -> Result<[u8; 32], Invalid> {
    let mut bytes = array::<32>(field, text)?;
    bytes.reverse();
    Ok(bytes)
}

fn array<const N: usize>(field: &str, text: &str) -> Result<[u8; N], Invalid> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes)
        .map_err(|error| Invalid(format!("{field}: {error} (expected {N} bytes in hex)")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use bitcoin::{
        Amount, OutPoint, ScriptBuf, Transaction, TxIn, TxOut, Txid, Witness, absolute::LockTime,
        consensus::encode::serialize, transaction::Version,
    };
    use proptest::{prelude::*, sample::Index};
    use serde_json::{Value, json};

    use super::*;

    fn transaction(number: u8) -> Transaction {
        Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: OutPoint::new(Txid::from_byte_array([number; 32]), 1),
                witness: Witness::from_slice(&[[number; 64]]),
                ..TxIn::default()
            }],
            output: vec![TxOut {
                value: Amount::from_sat(1000),
                script_pubkey: ScriptBuf::from_bytes(vec![0x51]),
            }],
        }
    }

    fn answer(count: u8) -> Value {
        let transactions: Vec<Transaction> = (1..=count).map(transaction).collect();
        let witness_ids: Vec<_> = transactions
            .iter()
            .map(|transaction| transaction.compute_wtxid().to_byte_array())
            .collect();
        let listed = transactions.iter().map(|transaction| {
            json!({
                "data": hex::encode(serialize(transaction)), "txid": transaction.compute_txid().to_string(),
                "hash": transaction.compute_wtxid().to_string(), "fee": 100, "depends": [], "weight": 400, "sigops": 1,
            })
        });
        let commitment = [
            &COMMITMENT_MARKER[..],
            &block::witness_commitment(&witness_ids),
        ]
        .concat();
        json!({
            "version": 0x2000_0000, "rules": ["csv", "!segwit", "taproot"],
            "previousblockhash": "00".repeat(31) + "ab", "transactions": listed.collect::<Vec<_>>(),
            "coinbasevalue": 5_000_000_000u64, "longpollid": "x1", "mintime": 10, "curtime": 20,
            "bits": "207fffff", "height": 200, "default_witness_commitment": hex::encode(commitment),
        })
    }

    fn check_value(answer: &Value) -> Result<Checked, Invalid> {
        check(&answer.to_string(), &Known::new())
    }

    #[test]
    fn a_good_answer_becomes_a_template() {
        let Checked {
            template,
            longpollid,
            known,
            ..
        } = check_value(&answer(3)).unwrap();
        assert_eq!(template.prev_hash[0], 0xab);
        assert_eq!(
            (template.height(), template.nbits, longpollid.as_str()),
            (Some(200), 0x207f_ffff, "x1")
        );
        assert_eq!((template.merkle_path.len(), known.len()), (2, 3));
        assert_eq!(template.coinbase.outputs.len(), 8 + 1 + 38);
    }

    #[test]
    fn transactions_are_shared_with_the_template_before() {
        let before = check_value(&answer(3)).unwrap();
        let after = check(&answer(4).to_string(), &before.known).unwrap();
        let (Body::Transactions(old), Body::Transactions(new)) =
            (&before.template.body, &after.template.body)
        else {
            panic!("remote bodies");
        };
        assert!(
            old.iter()
                .zip(new.iter())
                .all(|(old, new)| Arc::ptr_eq(old, new))
        );
        assert_eq!((old.len(), new.len(), after.known.len()), (3, 4, 4));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let swapped = hex::encode(serialize(&transaction(9)));
        let cases = [
            ("/height", json!(0), "height"),
            ("/height", json!(500_000_000), "height"),
            ("/height", json!(-1), "invalid value"),
            ("/bits", json!("00000000"), "bits"),
            ("/bits", json!("20"), "bits"),
            ("/bits", json!("zzzzzzzz"), "bits"),
            ("/previousblockhash", json!("00"), "previousblockhash"),
            ("/coinbasevalue", json!(MAX_MONEY + 1), "coinbasevalue"),
            ("/coinbasevalue", json!(-1), "invalid value"),
            ("/curtime", json!(9), "curtime"),
            ("/longpollid", json!(""), "longpollid"),
            ("/longpollid", json!("x".repeat(2000)), "longpollid"),
            ("/rules/1", json!("!quantum"), "!quantum"),
            ("/default_witness_commitment", json!(null), "is missing"),
            (
                "/default_witness_commitment",
                json!("6a"),
                "no witness commitment",
            ),
            (
                "/default_witness_commitment",
                json!("6a24aa21a9ed".to_owned() + &"00".repeat(32)),
                "does not commit",
            ),
            (
                "/transactions/1/data",
                json!("00"),
                "transaction 1: does not decode",
            ),
            ("/transactions/1/data", json!("0"), "transaction 1: data"),
            (
                "/transactions/1/data",
                json!(swapped),
                "transaction 1: has another txid",
            ),
            ("/transactions/1/txid", json!("ff"), "transaction 1: txid"),
            (
                "/transactions/1/hash",
                json!("ff".repeat(32)),
                "transaction 1: has another hash",
            ),
            (
                "/transactions/1/data",
                json!("00".repeat(4_000_000)),
                "too large",
            ),
            ("/transactions", json!({}), "invalid type"),
        ];
        for (pointer, value, problem) in cases {
            let mut answer = answer(2);
            *answer.pointer_mut(pointer).unwrap() = value;
            let Invalid(text) = check_value(&answer).map(|_| ()).unwrap_err();
            assert!(text.contains(problem), "{pointer}: {text}");
        }
        let mut twice = answer(1);
        let first = twice["transactions"][0].clone();
        twice["transactions"].as_array_mut().unwrap().push(first);
        assert!(
            check_value(&twice)
                .map(|_| ())
                .unwrap_err()
                .0
                .contains("there twice")
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_check_panic(text in ".{0,200}") {
            let _ = check(&text, &Known::new());
        }

        /// Any byte of a good answer changed, and the rest cut anywhere.
        #[test]
        fn no_damage_makes_the_check_panic(at: Index, byte in 32u8..127, cut: Option<Index>) {
            let mut bytes = answer(2).to_string().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let _ = check(std::str::from_utf8(&bytes).unwrap(), &Known::new());
        }

        /// Any field replaced by any number or text.
        #[test]
        fn no_value_makes_the_check_panic(field: Index, number: Option<i64>, text in ".{0,80}") {
            let mut answer = answer(1);
            let fields = answer.as_object_mut().unwrap();
            let name = fields.keys().nth(field.index(fields.len())).unwrap().clone();
            fields[&name] = number.map_or(json!(text), |number| json!(number));
            let _ = check_value(&answer);
        }
    }
}
