//! The mining protocol with one client, from its set-up on (SV2 5).

mod extensions;
mod opening;
mod patience;
mod record;
mod supply;

use std::{
    collections::{BTreeMap, HashSet, VecDeque, btree_map},
    sync::Arc,
    time::{Duration, Instant},
};

use ledger::Entry;
use stratum_core::{
    common_messages_sv2::Reconnect,
    extensions_sv2::EXTENSION_TYPE_EXTENSIONS_NEGOTIATION,
    mining_sv2::{
        self, CloseChannel, SetCustomMiningJobError, SubmitSharesError, UpdateChannel,
        UpdateChannelError,
    },
    parsers_sv2::{CommonMessages, Mining as Message},
};
use sv2_connection::{Frame, FrameBuffer, MalformedMessage};
use work::{Hashrate, Target};

use self::{opening::Request, supply::announce_to_channel};
use crate::{
    acknowledge::Acknowledgements,
    board::{FIRST_CHANNEL_ID, Work},
    channel::{Channel, Solved},
    limits::Patience,
    payee::SOLO_GROUP_BIT,
    peers::{Introduction, WorkerRecord},
    session::{Farewell, Fault, Found, Resources, Tally},
    shares::Rejection,
    submit::Submission,
    workers::NAMES_PER_CONNECTION,
};

/// How often difficulties are looked at where no shares come.
const TICK: Duration = Duration::from_secs(5);

/// A session after its set-up.
#[derive(Debug)]
pub(crate) struct Mining {
    pub resources: Arc<Resources>,
    /// The client wants no extended jobs, so there are no groups and each channel gets a job of its own.
    standard_jobs: bool,
    /// Shares name their workers: extension 0x0002 was negotiated.
    shares_name_workers: bool,
    /// Workers that they have named, on all channels.
    pub named_workers: usize,
    work: Option<Arc<Work>>,
    /// Sorted by id, which only grows.
    #[allow(
        clippy::vec_box,
        reason = "so that to close one moves pointers, and not all the others"
    )]
    channels: Vec<Box<Channel>>,
    /// The channels of each group, sorted too. Kept also where the client wants none: each means another job.
    groups: BTreeMap<u32, Vec<u32>>,
    /// Requests for channels that cannot be judged before the first work says which network this is.
    waiting: Vec<Request>,
    next_channel_id: u32,
    own_jobs: u32,
    /// Tips that were worked on before this one.
    past_tips: VecDeque<[u8; 32]>,
    next_tick: Instant,
    /// The client should leave.
    drain: Option<Drain>,
    pub patience: Patience,
    acknowledgements: Acknowledgements,
    /// Extensions were negotiated.
    negotiated: bool,
    /// For a stats service.
    pub introduction: Option<Box<Introduction>>,
    /// For a stats service: workers of channels that were closed.
    pub ended: Vec<WorkerRecord>,
    pub found: Vec<Found>,
    pub tally: Tally,
}

impl Mining {
    pub(crate) fn new(
        resources: Arc<Resources>,
        work: Option<Arc<Work>>,
        standard_jobs: bool,
        now: Instant,
    ) -> Self {
        Self {
            resources,
            standard_jobs,
            shares_name_workers: false,
            named_workers: 0,
            work,
            channels: Vec::new(),
            groups: BTreeMap::new(),
            waiting: Vec::new(),
            next_channel_id: FIRST_CHANNEL_ID,
            own_jobs: 0,
            past_tips: VecDeque::new(),
            next_tick: now + TICK,
            drain: None,
            patience: Patience::new(now),
            acknowledgements: Acknowledgements::default(),
            negotiated: false,
            introduction: None,
            ended: Vec::new(),
            found: Vec::new(),
            tally: Tally::default(),
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        let drain = self.drain.as_ref().map(|drain| drain.ends_at);
        let patience = self.patience_end().map(|(at, _)| at);
        [drain, patience]
            .into_iter()
            .flatten()
            .fold(self.next_tick, Instant::min)
    }

    /// The client should leave. It is asked to come back when it has been told of the shares that it sent before.
    pub(crate) fn drain(
        &mut self,
        why: Farewell,
        now: Instant,
        out: &mut FrameBuffer,
    ) -> Result<(), MalformedMessage> {
        let waits_for = self.acknowledgements.newest_waiting();
        if waits_for.is_none() {
            ask_to_reconnect(out)?;
        }
        self.drain = Some(Drain {
            why,
            ends_at: now + self.resources.settings.drain,
            waits_for,
        });
        Ok(())
    }

    /// Whether there are channels, or such as only wait for the template source.
    pub(crate) fn has_channels(&self) -> bool {
        !(self.channels.is_empty() && self.waiting.is_empty())
    }

    #[cfg(test)]
    pub(crate) fn resources(&self) -> &Arc<Resources> {
        &self.resources
    }

    /// What its channels are believed to do together.
    pub(crate) fn hashrate(&self) -> Hashrate {
        let sum = self
            .channels
            .iter()
            .map(|channel| channel.hashrate().value())
            .sum::<f64>();
        Hashrate::new(sum.min(f64::MAX)).unwrap_or(Hashrate::ZERO)
    }

    pub(crate) fn channel_count(&self) -> u64 {
        self.channels.len() as u64
    }

    pub(crate) fn handle(
        &mut self,
        frame: Frame<'_>,
        now: Instant,
        out: &mut FrameBuffer,
    ) -> Result<(), Fault> {
        let unexpected = Fault::unexpected(&frame);
        match frame.extension_type {
            0 => {}
            EXTENSION_TYPE_EXTENSIONS_NEGOTIATION => return self.negotiate(frame, out),
            // SV2 3.4.1: what belongs to an unknown extension is ignored.
            _ => return Ok(()),
        }
        if let Some(submission) = Submission::parse(frame.message_type, frame.payload) {
            return self.submit(submission, now, out);
        }
        match frame.mining()? {
            Message::OpenExtendedMiningChannel(m) => self.open(m.into(), now, out)?,
            Message::OpenStandardMiningChannel(m) => self.open(m.into(), now, out)?,
            Message::UpdateChannel(m) => self.update(&m, now, out)?,
            Message::CloseChannel(m) => self.close(&m),
            Message::SetCustomMiningJob(m) => {
                let code = mining_sv2::ERROR_CODE_SET_CUSTOM_MINING_JOB_JD_NOT_SUPPORTED;
                out.push(Message::SetCustomMiningJobError(SetCustomMiningJobError {
                    channel_id: m.channel_id,
                    request_id: m.request_id,
                    error_code: code.try_into().map_err(MalformedMessage::Fields)?,
                }))?;
            }
            _ => return Err(unexpected),
        }
        Ok(())
    }

    /// Sends the newest work to everybody, in one go.
    pub(crate) fn work_changed(
        &mut self,
        work: Arc<Work>,
        now: Instant,
        out: &mut FrameBuffer,
    ) -> Result<(), Fault> {
        // Who changes the tier can meet the same work again, and the one before it.
        if self
            .work
            .as_ref()
            .is_some_and(|old| !work.is_newer_than(old))
        {
            return Ok(());
        }
        let old = self.work.replace(Arc::clone(&work));
        if old.is_none() {
            self.patience.excuse(now);
        }
        if self.channels.is_empty() {
            return self.open_waiting(now, out);
        }
        let new_tip = old.as_ref().is_none_or(|old| old.tip() != work.tip());
        if new_tip {
            self.follow_network_target(&work, out)?;
        }
        if let Some(old) = old {
            self.leave_tip(old.prev_hash(), work.prev_hash(), out)?;
        }
        let mut told = Told::default();
        for channel in &mut self.channels {
            let payee = channel.payee.as_deref();
            let job = work.job(payee, channel.extranonce_size);
            if self.standard_jobs {
                announce_to_channel(channel, &job, work.id(), new_tip, out)?;
            } else if told.is_first(channel.group_id()) {
                work.announce_to_group(payee, channel.extranonce_size, new_tip, out)?;
            }
            channel.job_sent(work.id(), job, now);
        }
        self.open_waiting(now, out)
    }

    pub(crate) fn tick(&mut self, now: Instant, out: &mut FrameBuffer) -> Result<(), Fault> {
        if let Some(drain) = self.drain.take_if(|drain| now >= drain.ends_at) {
            if drain.waits_for.is_some() {
                ask_to_reconnect(out)?;
            }
            return Err(drain.why.into());
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.retarget_all(now, out)?;
        }
        self.check_patience(now)
    }

    /// Ends a turn under this number: difficulties follow what its shares showed. What was accepted waits for
    /// [`durable`](Self::durable), and is to be booked.
    pub(crate) fn end_turn(
        &mut self,
        number: u64,
        now: Instant,
        out: &mut FrameBuffer,
    ) -> Result<Vec<Entry>, Fault> {
        for channel_id in self.acknowledgements.channels_of_turn() {
            if let Some(at) = self.position(channel_id) {
                self.retarget(at, now, out)?;
            }
        }
        Ok(self.acknowledgements.end_turn(number))
    }

    /// What was accepted in turns up to this number is durable.
    pub(crate) fn durable(
        &mut self,
        number: u64,
        out: &mut FrameBuffer,
    ) -> Result<(), MalformedMessage> {
        for accepted in self.acknowledgements.durable(number) {
            let mut channel_is_gone = 0;
            let remainder = match self.channel(accepted.channel_id) {
                Some(channel) => &mut channel.remainder,
                None => &mut channel_is_gone,
            };
            out.push(Message::SubmitSharesSuccess(accepted.success(remainder)))?;
        }
        if let Some(drain) = &mut self.drain
            && drain.waits_for.take_if(|turn| *turn <= number).is_some()
        {
            ask_to_reconnect(out)?;
        }
        Ok(())
    }

    fn submit(
        &mut self,
        submission: Submission<'_>,
        now: Instant,
        out: &mut FrameBuffer,
    ) -> Result<(), Fault> {
        let Submission {
            channel_id,
            sequence_number,
            share,
            ..
        } = submission;
        let job_is_past = self.is_past(share.job_id);
        let at = self.position(channel_id);
        let counts = match at {
            None => Err(Rejection::InvalidChannelId),
            Some(at) => {
                let channel = &mut self.channels[at];
                let verdict = channel.judge(share, job_is_past, now);
                if verdict.counts.is_ok() || verdict.solution.is_some() {
                    self.book(at, &submission, verdict.solution, verdict.counts.ok(), now);
                }
                verdict.counts
            }
        };
        match counts {
            Ok(work) => {
                self.tally.accepted += 1;
                self.tally.work = self.tally.work.saturating_add(work);
            }
            Err(rejection) => {
                self.tally.rejected[rejection as usize] += 1;
                self.note_rejection(at, &submission, rejection);
                out.push(Message::SubmitSharesError(SubmitSharesError {
                    channel_id,
                    sequence_number,
                    error_code: rejection
                        .code()
                        .try_into()
                        .map_err(MalformedMessage::Fields)?,
                }))?;
            }
        }
        Ok(())
    }

    /// Notes a share that is worth something: as work, as a block, or as both.
    fn book(
        &mut self,
        at: usize,
        submission: &Submission<'_>,
        solution: Option<Solved>,
        work: Option<u128>,
        now: Instant,
    ) {
        let told = self.resources.settings.told;
        let channel = &mut self.channels[at];
        let name = if self.shares_name_workers {
            submission.worker()
        } else {
            None
        };
        let named_before = channel.workers.named();
        let worker = channel
            .workers
            .of_share(name, self.named_workers < NAMES_PER_CONNECTION);
        if let Some(work) = work {
            let (channel_id, number) = (submission.channel_id, submission.sequence_number);
            self.acknowledgements
                .accept(&mut channel.slot, channel_id, number, work);
            self.acknowledgements
                .book(&mut worker.slot, &worker.owner, work);
            if told {
                worker.counts.get_or_insert_default().accept(work, now);
            }
        }
        if let Some(solved) = solution {
            let owner = worker.owner.clone();
            self.found.push(Found { solved, owner });
        }
        self.named_workers += channel.workers.named() - named_before;
    }

    fn update(
        &mut self,
        request: &UpdateChannel<'_>,
        now: Instant,
        out: &mut FrameBuffer,
    ) -> Result<(), Fault> {
        let nominal = Hashrate::new(request.nominal_hash_rate.into());
        let max_target = Target::from_le_bytes(request.maximum_target.to_array());
        let refusal = match (self.position(request.channel_id), nominal, max_target) {
            (None, ..) => mining_sv2::ERROR_CODE_UPDATE_CHANNEL_INVALID_CHANNEL_ID,
            (_, Err(_), _) => mining_sv2::ERROR_CODE_UPDATE_CHANNEL_INVALID_NOMINAL_HASHRATE,
            (.., Err(_)) => mining_sv2::ERROR_CODE_UPDATE_CHANNEL_MAX_TARGET_OUT_OF_RANGE,
            (Some(at), Ok(nominal), Ok(max_target)) => {
                let channel = &mut self.channels[at];
                channel.update(nominal, max_target);
                self.retarget(at, now, out)?;
                // The limit holds even where the controller is content.
                let clamped = self.clamp(max_target).apply(self.channels[at].target());
                self.set_target(at, clamped, out)?;
                return Ok(());
            }
        };
        out.push(Message::UpdateChannelError(UpdateChannelError {
            channel_id: request.channel_id,
            error_code: refusal.try_into().map_err(MalformedMessage::Fields)?,
        }))?;
        Ok(())
    }

    fn close(&mut self, request: &CloseChannel<'_>) {
        let id = request.channel_id;
        let is_group = !(FIRST_CHANNEL_ID..SOLO_GROUP_BIT).contains(&id);
        if !is_group {
            self.close_one(id);
        } else if !self.standard_jobs
            && let Some(channels) = self.groups.get(&id).cloned()
        {
            // From the end: what comes after a channel has to move up.
            channels.into_iter().rev().for_each(|id| self.close_one(id));
        }
    }

    fn close_one(&mut self, id: u32) {
        let Some(at) = self.position(id) else {
            return;
        };
        let channel = self.channels.remove(at);
        self.note_ended(&channel);
        self.named_workers -= channel.workers.named();
        self.tally.channels_closed += 1;
        if let btree_map::Entry::Occupied(mut group) = self.groups.entry(channel.group_id()) {
            if let Ok(at) = group.get().binary_search(&id) {
                group.get_mut().remove(at);
            }
            if group.get().is_empty() {
                group.remove();
            }
        }
    }

    /// Where the channel is. Ids are given out one by one, so it is as far from the first as its id, less the channels
    /// closed between them; a search from the middle would wait for the memory of a dozen others.
    fn position(&self, channel_id: u32) -> Option<usize> {
        let first = self.channels.first()?;
        let furthest = usize::try_from(channel_id.checked_sub(first.id)?).ok()?;
        let at = furthest.min(self.channels.len() - 1);
        if self.channels[at].id == channel_id {
            return Some(at);
        }
        self.channels[..at]
            .binary_search_by_key(&channel_id, |channel| channel.id)
            .ok()
    }

    fn channel(&mut self, channel_id: u32) -> Option<&mut Channel> {
        self.position(channel_id).map(|at| &mut *self.channels[at])
    }
}

/// Groups that have been told. Nearly always there is one, which takes no memory.
#[derive(Debug, Default)]
struct Told {
    last: Option<u32>,
    others: HashSet<u32>,
}

impl Told {
    /// Whether this group has not been told before.
    fn is_first(&mut self, group: u32) -> bool {
        match self.last.replace(group) {
            Some(last) if last == group => false,
            Some(last) => {
                self.others.insert(last);
                !self.others.contains(&group)
            }
            None => true,
        }
    }
}

/// The end of a connection that the client did not ask for.
#[derive(Debug)]
struct Drain {
    why: Farewell,
    /// When it ends, whether the client has left or not.
    ends_at: Instant,
    /// The turn to acknowledge before the client is asked to leave; none if it has been asked.
    waits_for: Option<u64>,
}

/// To where it is connected now (SV2 3.6.5).
fn ask_to_reconnect(out: &mut FrameBuffer) -> Result<(), MalformedMessage> {
    out.push(CommonMessages::Reconnect(Reconnect {
        new_host: "".try_into().map_err(MalformedMessage::Fields)?,
        new_port: 0,
    }))
}
