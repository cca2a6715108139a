//! How channels come to be.

use std::time::Instant;

use stratum_core::{
    mining_sv2::{
        self, OpenExtendedMiningChannel, OpenExtendedMiningChannelSuccess, OpenMiningChannelError,
        OpenStandardMiningChannel, OpenStandardMiningChannelSuccess,
    },
    parsers_sv2::Mining as Message,
};
use sv2_connection::{FrameBuffer, MalformedMessage};
use work::{Hashrate, Target};

use super::Mining;
use crate::{
    accounts::Judgement,
    board::USUAL_EXTRANONCE,
    channel::{Channel, Kind, Opening},
    extranonce::{LARGEST_EXTRANONCE, PREFIX_SIZE, ROLLABLE_SIZE},
    limits::Place,
    payee::{self, SOLO_GROUP_BIT},
    session::Fault,
};

/// The error code where there is no room for the channel, on the connection or in the pool.
const FULL: &str = mining_sv2::ERROR_CODE_OPEN_MINING_CHANNEL_CHANNEL_CAPACITY_EXHAUSTED;

/// A request for a channel.
#[derive(Debug)]
pub(super) struct Request {
    id: u32,
    kind: Kind,
    user_identity: Box<[u8]>,
    nominal_hash_rate: f32,
    max_target: [u8; 32],
    /// Bytes of the whole extranonce.
    extranonce_size: usize,
    /// Among the channels of all connections, as soon as it has one.
    place: Option<Place>,
}

impl From<OpenExtendedMiningChannel<'_>> for Request {
    fn from(message: OpenExtendedMiningChannel<'_>) -> Self {
        let rolled = usize::from(message.min_extranonce_size).max(ROLLABLE_SIZE);
        Self {
            id: message.request_id,
            kind: Kind::Extended,
            user_identity: message.user_identity.as_bytes().into(),
            nominal_hash_rate: message.nominal_hash_rate,
            max_target: message.max_target.to_array(),
            extranonce_size: PREFIX_SIZE + rolled,
            place: None,
        }
    }
}

impl From<OpenStandardMiningChannel<'_>> for Request {
    fn from(message: OpenStandardMiningChannel<'_>) -> Self {
        Self {
            id: message.request_id,
            kind: Kind::Standard,
            user_identity: message.user_identity.as_bytes().into(),
            nominal_hash_rate: message.nominal_hash_rate,
            max_target: message.max_target.to_array(),
            extranonce_size: USUAL_EXTRANONCE,
            place: None,
        }
    }
}

impl Mining {
    pub(super) fn open(
        &mut self,
        mut request: Request,
        now: Instant,
        out: &mut FrameBuffer,
    ) -> Result<(), Fault> {
        match self.check(&mut request) {
            Ok(Some(opening)) => self.open_checked(request.id, opening, now, out),
            Ok(None) => {
                self.waiting.push(request);
                Ok(())
            }
            Err(code) => self.refuse(request.id, code, out),
        }
    }

    fn refuse(
        &mut self,
        request_id: u32,
        code: &'static str,
        out: &mut FrameBuffer,
    ) -> Result<(), Fault> {
        *self.tally.channels_refused.entry(code).or_default() += 1;
        out.push(Message::OpenMiningChannelError(OpenMiningChannelError {
            request_id,
            error_code: code.try_into().map_err(MalformedMessage::Fields)?,
        }))?;
        Ok(())
    }

    /// Opens what waited for the first work.
    pub(super) fn open_waiting(
        &mut self,
        now: Instant,
        out: &mut FrameBuffer,
    ) -> Result<(), Fault> {
        std::mem::take(&mut self.waiting)
            .into_iter()
            .try_for_each(|request| self.open(request, now, out))
    }

    /// What the channel is to be, if that can be said yet, or why it cannot be.
    fn check(&self, request: &mut Request) -> Result<Option<Opening>, &'static str> {
        let network = self.work.as_ref().map(|work| work.network());
        let payout = match self
            .resources
            .accounts
            .judge(&request.user_identity, network)
        {
            Judgement::Refused(code) => return Err(code),
            Judgement::Accepted { owner, solo } => Some((owner, solo)),
            Judgement::Open => None,
        };
        if self.standard_jobs && request.kind == Kind::Extended {
            return Err(mining_sv2::ERROR_CODE_OPEN_MINING_CHANNEL_EXTENDED_CHANNELS_NOT_SUPPORTED_FOR_STANDARD_JOBS);
        }
        if request.extranonce_size > LARGEST_EXTRANONCE {
            return Err(mining_sv2::ERROR_CODE_OPEN_MINING_CHANNEL_MIN_EXTRANONCE_SIZE_TOO_LARGE);
        }
        if self.channels.len() + self.waiting.len()
            >= self.resources.settings.channels_per_connection
        {
            return Err(FULL);
        }
        let nominal = Hashrate::new(request.nominal_hash_rate.into())
            .map_err(|_| mining_sv2::ERROR_CODE_OPEN_MINING_CHANNEL_INVALID_NOMINAL_HASHRATE)?;
        let max_target = Target::from_le_bytes(request.max_target)
            .map_err(|_| mining_sv2::ERROR_CODE_OPEN_MINING_CHANNEL_MAX_TARGET_OUT_OF_RANGE)?;
        let place = match request.place.take() {
            Some(place) => place,
            None => self.resources.places.take().ok_or(FULL)?,
        };
        let Some((owner, solo)) = payout else {
            request.place = Some(place);
            return Ok(None);
        };
        let payee = match solo {
            Some(script) => Some(self.resources.payees.get(&script).ok_or(FULL)?),
            None => None,
        };
        let group = payee::group_of(payee.as_deref(), request.extranonce_size);
        // Each group costs a job for each template, so nobody is to have all payees there may be.
        let groups = &self.groups;
        if groups.len() >= self.resources.settings.groups_per_connection
            && !groups.contains_key(&group)
        {
            return Err(FULL);
        }
        Ok(Some(Opening {
            kind: request.kind,
            owner,
            payee,
            nominal,
            max_target,
            extranonce_size: request.extranonce_size,
            place,
        }))
    }

    fn open_checked(
        &mut self,
        request_id: u32,
        opening: Opening,
        now: Instant,
        out: &mut FrameBuffer,
    ) -> Result<(), Fault> {
        let id = self.next_channel_id;
        // After 2^31 channels on one connection, numbers would meet those of groups.
        if id >= SOLO_GROUP_BIT {
            return Err(Fault::Refused("too many channels"));
        }
        let Some(prefix) = self.resources.prefixes.allocate() else {
            return self.refuse(request_id, FULL, out);
        };
        self.next_channel_id += 1;
        let channel = Channel::open(
            id,
            opening,
            prefix,
            self.resources.settings.shares_per_minute,
            |max_target| self.clamp(max_target),
            now,
        );
        self.answer_open(request_id, &channel, out)?;
        self.tally.channels_opened += 1;
        self.groups.entry(channel.group_id()).or_default().push(id);
        self.channels.push(Box::new(channel));
        if let Some(work) = self.work.clone() {
            // Not by the group: the other channels in it have this job.
            self.send_job(self.channels.len() - 1, &work, work.id(), true, now, out)?;
        }
        Ok(())
    }

    fn answer_open(
        &self,
        request_id: u32,
        channel: &Channel,
        out: &mut FrameBuffer,
    ) -> Result<(), MalformedMessage> {
        let target = channel.target().to_le_bytes();
        let prefix = channel.extranonce_prefix();
        let group_channel_id = if self.standard_jobs {
            0
        } else {
            channel.group_id()
        };
        match channel.kind {
            Kind::Extended => out.push(Message::OpenExtendedMiningChannelSuccess(
                OpenExtendedMiningChannelSuccess {
                    request_id,
                    channel_id: channel.id,
                    target: (&target).into(),
                    // At most 32 bytes.
                    extranonce_size: u16::try_from(channel.extranonce_size - PREFIX_SIZE)
                        .unwrap_or(0),
                    extranonce_prefix: prefix.as_slice().try_into()?,
                    group_channel_id,
                },
            )),
            Kind::Standard => out.push(Message::OpenStandardMiningChannelSuccess(
                OpenStandardMiningChannelSuccess {
                    request_id,
                    channel_id: channel.id,
                    target: (&target).into(),
                    extranonce_prefix: prefix.as_slice().try_into()?,
                    group_channel_id,
                },
            )),
        }
    }
}
