//! An upstream connection without a socket, for simulations: its queue, its router and its frames are the real ones.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures_util::FutureExt;
use stratum_core::mining_sv2::MESSAGE_TYPE_SUBMIT_SHARES_EXTENDED;
use stratum_core::parsers_sv2::{Mining, TlvList};
use sv2_connection::{Frame, FrameBuffer};
use tokio::sync::mpsc;

use super::encode::{encode, push_update};
use super::router::Router;
use super::shared::SharedChannels;
use super::{Link, Outgoing, Registry, UpstreamError};
use crate::session::Request;

/// The upstream's end of it. The connection ends when this is dropped.
pub(crate) struct Wire {
    outgoing: mpsc::Receiver<Outgoing>,
    router: Router,
    registry: Arc<Registry>,
    worker_names: bool,
    frames: FrameBuffer,
}

impl Wire {
    /// A connection whose queue holds so many requests, and the link to it. Shares on shared channels name their workers.
    pub(crate) fn new(
        id: u64,
        queue: usize,
        aggregate: bool,
        job_ids: &Arc<AtomicU64>,
    ) -> (Self, Link) {
        let registry = Arc::new(Registry::new(aggregate));
        let (sender, outgoing) = mpsc::channel(queue);
        let wire = Self {
            outgoing,
            router: Router::new(Arc::clone(&registry), Arc::clone(job_ids)),
            registry: Arc::clone(&registry),
            worker_names: aggregate,
            frames: FrameBuffer::new(),
        };
        let link = Link {
            id,
            queue: sender,
            registry,
            worker_names: aggregate,
        };
        (wire, link)
    }

    /// What the translator writes next, so many messages at most, and whom a share names.
    pub(crate) fn hear(&mut self, most: usize, mut hear: impl FnMut(Mining<'_>, Option<String>)) {
        for channel_id in std::mem::take(self.router.unwanted()) {
            let close = Outgoing {
                request_id: 0,
                request: Request::Close { channel_id },
                mailbox: None,
            };
            encode(&close, false, &mut self.frames).unwrap();
        }
        for _ in 0..most {
            let Ok(outgoing) = self.outgoing.try_recv() else {
                break;
            };
            encode(&outgoing, self.worker_names, &mut self.frames).unwrap();
        }
        for frame in self.frames.frames() {
            let (frame, worker) = without_worker(frame);
            hear(frame.mining().unwrap(), worker);
        }
        self.frames.clear();
    }

    /// What the translator says once a second of the channels that miners share.
    pub(crate) fn hear_updates(&mut self, mut hear: impl FnMut(Mining<'_>)) {
        for update in self
            .registry
            .shared
            .iter()
            .flat_map(SharedChannels::updates)
        {
            push_update(&update, &mut self.frames).unwrap();
        }
        for frame in self.frames.frames() {
            hear(frame.mining().unwrap());
        }
        self.frames.clear();
    }

    /// The upstream says this.
    pub(crate) fn say(&mut self, message: Mining<'_>) -> Result<(), UpstreamError> {
        let mut frames = FrameBuffer::new();
        frames.push(message).unwrap();
        frames
            .frames()
            .try_for_each(|frame| self.router.handle(frame))
    }

    /// Whether something in the queue is to be written at once, since the last time.
    pub(crate) fn is_hurried(&self) -> bool {
        self.registry.hurry.notified().now_or_never().is_some()
    }

    /// Whether nobody holds a link to it any more, and all that was written has been heard.
    pub(crate) fn is_left(&self) -> bool {
        self.outgoing.is_closed() && self.outgoing.is_empty()
    }
}

/// Splits a share from what extension 0x0002 puts behind it.
fn without_worker(frame: Frame<'_>) -> (Frame<'_>, Option<String>) {
    // Six words, and the extranonce with its length (SV2 5.3.12).
    const LENGTH_AT: usize = 24;
    if frame.message_type != MESSAGE_TYPE_SUBMIT_SHARES_EXTENDED {
        return (frame, None);
    }
    let size = LENGTH_AT + 1 + usize::from(frame.payload[LENGTH_AT]);
    let (fields, behind) = frame.payload.split_at_mut(size);
    let named = TlvList::from_bytes(behind).iter().next();
    let worker = named.map(|tlv| String::from_utf8(tlv.unwrap().value.to_vec()).unwrap());
    let frame = Frame {
        payload: fields,
        ..frame
    };
    (frame, worker)
}
