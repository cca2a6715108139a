//! An upstream connection without a socket, for simulations: its queue, its router and its frames are the real ones.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use stratum_core::parsers_sv2::Mining;
use sv2_connection::FrameBuffer;
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
    frames: FrameBuffer,
}

impl Wire {
    /// A connection whose queue holds so many requests, and the link to it.
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
            frames: FrameBuffer::new(),
        };
        let link = Link {
            id,
            queue: sender,
            registry,
            worker_names: false,
        };
        (wire, link)
    }

    /// What the translator writes next, so many messages at most.
    pub(crate) fn hear(&mut self, most: usize, mut hear: impl FnMut(Mining<'_>)) {
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
            encode(&outgoing, false, &mut self.frames).unwrap();
        }
        for frame in self.frames.frames() {
            hear(frame.mining().unwrap());
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

    /// Whether nobody holds a link to it any more, and all that was written has been heard.
    pub(crate) fn is_left(&self) -> bool {
        self.outgoing.is_closed() && self.outgoing.is_empty()
    }
}
