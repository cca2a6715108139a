//! After the set-up: templates, tips, transactions and solutions (SV2 7).

use std::{collections::VecDeque, sync::Arc};

use stratum_core::{
    parsers_sv2::TemplateDistribution,
    template_distribution_sv2::{
        ERROR_CODE_REQUEST_TRANSACTION_DATA_STALE_TEMPLATE_ID,
        ERROR_CODE_REQUEST_TRANSACTION_DATA_TEMPLATE_ID_NOT_FOUND, NewTemplate,
        RequestTransactionDataError, RequestTransactionDataSuccess, SetNewPrevHash, SubmitSolution,
    },
};
use sv2_connection::{Frame, FrameBuffer, MalformedMessage};
use templates::{Body, Room, Solution, Template};
use tracing::warn;
use work::Target;

use super::{Fault, Tally};

/// The coinbase's witness reserved value as everybody has it (BIP 141); what is needed beside the transactions to
/// check a block's witnesses.
const WITNESS_RESERVED: [u8; 32] = [0; 32];

/// A client that has introduced itself. It gets nothing before it has said what room its outputs need (SV2 7.1).
#[derive(Debug)]
pub(crate) struct Distribution {
    newest: Option<Arc<Template>>,
    room: Option<Room>,
    /// What was sent, oldest first. Ids are this connection's own: two with different room are different templates.
    sent: VecDeque<(u64, Arc<Template>)>,
    last_id: u64,
    remembered: usize,
    pub(super) solution: Option<Solution>,
    pub(super) tally: Tally,
}

impl Distribution {
    pub(super) fn new(remembered: usize, newest: Option<Arc<Template>>) -> Self {
        Self {
            newest,
            room: None,
            sent: VecDeque::new(),
            last_id: 0,
            remembered,
            solution: None,
            tally: Tally::default(),
        }
    }

    pub(super) fn handle(&mut self, frame: Frame<'_>, out: &mut FrameBuffer) -> Result<(), Fault> {
        let unexpected = Fault::unexpected(&frame);
        if frame.extension_type != 0 {
            return Err(unexpected);
        }
        match frame.template_distribution()? {
            TemplateDistribution::CoinbaseOutputConstraints(message) => {
                let room = Some(Room {
                    output_bytes: message.coinbase_output_max_additional_size,
                    sigops: message.coinbase_output_max_additional_sigops,
                });
                if self.room == room {
                    return Ok(());
                }
                self.room = room;
                self.send_newest(out)
            }
            TemplateDistribution::RequestTransactionData(message) => {
                self.send_transactions(message.template_id, out)
            }
            TemplateDistribution::SubmitSolution(message) => {
                self.take_solution(&message);
                Ok(())
            }
            _ => Err(unexpected),
        }
    }

    pub(super) fn template_changed(
        &mut self,
        template: Arc<Template>,
        out: &mut FrameBuffer,
    ) -> Result<(), Fault> {
        self.newest = Some(template);
        self.send_newest(out)
    }

    /// A template for a new tip is a future one, that the tip makes current at once; both go out together. Others
    /// belong to the tip that the client has.
    fn send_newest(&mut self, out: &mut FrameBuffer) -> Result<(), Fault> {
        let (Some(newest), Some(room)) = (&self.newest, self.room) else {
            return Ok(());
        };
        let template = newest.with_room(room)?;
        let old_tip = self.sent.back().map(|(_, sent)| tip(sent));
        let new_tip = old_tip != Some(tip(&template));
        self.last_id += 1;
        let id = self.last_id;
        push_template(id, new_tip, &template, out)?;
        self.tally.templates += 1;
        if new_tip {
            push_tip(id, &template, out)?;
            self.tally.tips += 1;
        }
        if self.sent.len() >= self.remembered {
            self.sent.pop_front();
        }
        self.sent.push_back((id, template));
        Ok(())
    }

    fn send_transactions(&mut self, id: u64, out: &mut FrameBuffer) -> Result<(), Fault> {
        self.tally.transaction_requests += 1;
        let error_code = match self.current(id) {
            Ok(template) => match &template.body {
                Body::Transactions(transactions) => {
                    let excess_data: &[u8] = match template.coinbase.outputs_count {
                        0 => &[],
                        _ => &WITNESS_RESERVED,
                    };
                    let list = transactions
                        .iter()
                        .map(|transaction| (&*transaction.bytes).try_into())
                        .collect::<Result<Vec<_>, _>>()
                        .map_err(MalformedMessage::Fields)?;
                    out.push(TemplateDistribution::RequestTransactionDataSuccess(
                        RequestTransactionDataSuccess {
                            template_id: id,
                            excess_data: excess_data
                                .try_into()
                                .map_err(MalformedMessage::Fields)?,
                            transaction_list: list.try_into().map_err(MalformedMessage::Fields)?,
                        },
                    ))?;
                    return Ok(());
                }
                // Whoever has the transactions was asked for the template under another id.
                Body::Remote => ERROR_CODE_REQUEST_TRANSACTION_DATA_TEMPLATE_ID_NOT_FOUND,
            },
            Err(code) => code,
        };
        self.tally.transaction_requests_refused += 1;
        out.push(TemplateDistribution::RequestTransactionDataError(
            RequestTransactionDataError {
                template_id: id,
                error_code: error_code.try_into().map_err(MalformedMessage::Fields)?,
            },
        ))?;
        Ok(())
    }

    /// The template if it is on the tip that the client has; else the protocol's error (SV2 7.6).
    fn current(&self, id: u64) -> Result<&Arc<Template>, &'static str> {
        if id == 0 || id > self.last_id {
            return Err(ERROR_CODE_REQUEST_TRANSACTION_DATA_TEMPLATE_ID_NOT_FOUND);
        }
        let newest_tip = self.sent.back().map(|(_, template)| tip(template));
        self.find(id)
            .filter(|template| Some(tip(template)) == newest_tip)
            .ok_or(ERROR_CODE_REQUEST_TRANSACTION_DATA_STALE_TEMPLATE_ID)
    }

    /// Only a block is passed on: a node must not be bothered by whoever can connect. One on an old tip is, since the
    /// node may see that tip otherwise.
    fn take_solution(&mut self, message: &SubmitSolution<'_>) {
        let Some(template) = self.find(message.template_id) else {
            warn!(
                template = message.template_id,
                "a solution of a template that is not known any more"
            );
            self.tally.solutions_refused += 1;
            return;
        };
        let solution = Solution {
            template: Arc::clone(template),
            version: message.version,
            ntime: message.header_timestamp,
            nonce: message.header_nonce,
            coinbase: message.coinbase_tx.as_ref().to_vec(),
        }
        .with_witness();
        let target = Target::from_compact(solution.template.nbits).ok();
        let is_block = target
            .zip(solution.hash())
            .is_some_and(|(target, hash)| target.is_met_by(&hash));
        if is_block {
            self.tally.solutions += 1;
            self.solution = Some(solution);
        } else {
            warn!(
                template = message.template_id,
                "a solution that is no block: its coinbase does not decode, or its hash misses the target"
            );
            self.tally.solutions_refused += 1;
        }
    }

    fn find(&self, id: u64) -> Option<&Arc<Template>> {
        let mut newest_first = self.sent.iter().rev();
        newest_first
            .find(|(sent, _)| *sent == id)
            .map(|(_, template)| template)
    }
}

/// Where `nbits` can change without a new block (testnet4), that is a new tip too: only a tip carries it.
fn tip(template: &Template) -> ([u8; 32], u32) {
    (template.prev_hash, template.nbits)
}

fn push_template(
    id: u64,
    future_template: bool,
    template: &Template,
    out: &mut FrameBuffer,
) -> Result<(), MalformedMessage> {
    let coinbase = &template.coinbase;
    let path: Vec<_> = template.merkle_path.iter().map(Into::into).collect();
    out.push(TemplateDistribution::NewTemplate(NewTemplate {
        template_id: id,
        future_template,
        version: template.version,
        coinbase_tx_version: coinbase.version,
        coinbase_prefix: coinbase.script_prefix.as_slice().try_into()?,
        coinbase_tx_input_sequence: coinbase.sequence,
        coinbase_tx_value_remaining: coinbase.value_remaining,
        coinbase_tx_outputs_count: coinbase.outputs_count,
        coinbase_tx_outputs: coinbase.outputs.as_slice().try_into()?,
        coinbase_tx_locktime: coinbase.locktime,
        merkle_path: path.try_into()?,
    }))
}

fn push_tip(id: u64, template: &Template, out: &mut FrameBuffer) -> Result<(), MalformedMessage> {
    let target =
        Target::from_compact(template.nbits).map_or([0; 32], |target| target.to_le_bytes());
    out.push(TemplateDistribution::SetNewPrevHash(SetNewPrevHash {
        template_id: id,
        prev_hash: (&template.prev_hash).into(),
        header_timestamp: template.ntime,
        n_bits: template.nbits,
        target: (&target).into(),
    }))
}
