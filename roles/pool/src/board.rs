//! The newest work, published for all connections.

use std::sync::Arc;

use bitcoin::Network;
use sv2_connection::{FrameBuffer, MalformedMessage};
use templates::{Template, Templates};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use work::Target;

use crate::{
    Config, Error,
    extranonce::{PREFIX_SIZE, ROLLABLE_SIZE},
    job::{Job, Recipe},
    payee::Payee,
    payout,
    tiers::{self, Publisher, Tiers},
};

/// Bytes of the whole extranonce of channels that ask for nothing else.
pub(crate) const USUAL_EXTRANONCE: usize = PREFIX_SIZE + ROLLABLE_SIZE;

/// A template with the jobs made of it. Template and tip are one value, so that there is no moment between them.
#[derive(Debug)]
pub(crate) struct Work {
    id: u32,
    network: Network,
    template: Arc<Template>,
    network_target: Target,
    pool: Arc<Payee>,
    /// For channels that pay the pool and ask for no longer extranonce; nearly all of them. No lock is taken for these.
    usual: Arc<Job>,
    /// Encoded once for the group of those channels: with a new tip, and as another job on the same.
    on_new_tip: FrameBuffer,
    on_same_tip: FrameBuffer,
}

impl Work {
    pub(crate) fn new(
        id: u32,
        network: Network,
        template: Arc<Template>,
        pool: &Arc<Payee>,
    ) -> Result<Self, String> {
        let network_target =
            Target::from_compact(template.nbits).map_err(|error| error.to_string())?;
        let usual = Arc::new(Job::new(
            Arc::clone(&template),
            network_target,
            pool.recipe(),
            USUAL_EXTRANONCE,
        ));
        let group = pool.group_id(USUAL_EXTRANONCE);
        let encode = |new_tip| {
            let mut frames = FrameBuffer::new();
            usual
                .announce(group, id, new_tip, &mut frames)
                .map_err(|error| error.to_string())?;
            Ok::<_, String>(frames)
        };
        Ok(Self {
            id,
            network,
            network_target,
            on_new_tip: encode(true)?,
            on_same_tip: encode(false)?,
            pool: Arc::clone(pool),
            usual,
            template,
        })
    }

    /// The identity of a tip. Where `nbits` can change without a new block (testnet4), that is a new tip too.
    pub(crate) fn tip(&self) -> ([u8; 32], u32) {
        (self.template.prev_hash, self.template.nbits)
    }

    pub(crate) fn prev_hash(&self) -> [u8; 32] {
        self.template.prev_hash
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Whether it was made after that one.
    pub(crate) fn is_newer_than(&self, other: &Self) -> bool {
        let ahead = self.id.wrapping_sub(other.id) % OWN_JOB_BIT;
        (1..OWN_JOB_BIT / 2).contains(&ahead)
    }

    pub(crate) fn network(&self) -> Network {
        self.network
    }

    pub(crate) fn network_target(&self) -> Target {
        self.network_target
    }

    /// The job for channels with this payee, the pool if there is none, and this size of the whole extranonce.
    pub(crate) fn job(&self, payee: Option<&Payee>, extranonce_size: usize) -> Arc<Job> {
        match payee {
            None if extranonce_size == USUAL_EXTRANONCE => Arc::clone(&self.usual),
            _ => payee.unwrap_or(&self.pool).job(self, extranonce_size),
        }
    }

    /// Appends that job for the group of these channels.
    pub(crate) fn announce_to_group(
        &self,
        payee: Option<&Payee>,
        extranonce_size: usize,
        new_tip: bool,
        frames: &mut FrameBuffer,
    ) -> Result<(), MalformedMessage> {
        if payee.is_some() || extranonce_size != USUAL_EXTRANONCE {
            let payee = payee.unwrap_or(&self.pool);
            return payee.announce_to_group(self, extranonce_size, new_tip, frames);
        }
        frames.push_frames(if new_tip {
            &self.on_new_tip
        } else {
            &self.on_same_tip
        });
        Ok(())
    }

    pub(crate) fn make_job(&self, recipe: &Recipe, extranonce_size: usize) -> Job {
        Job::new(
            Arc::clone(&self.template),
            self.network_target,
            recipe,
            extranonce_size,
        )
    }
}

/// On one tip the time only grows: strict clients refuse a job that may start before the one they have.
fn not_before(template: Arc<Template>, last: Option<&Work>) -> Arc<Template> {
    match last {
        Some(last)
            if last.prev_hash() == template.prev_hash && last.template.ntime > template.ntime =>
        {
            Arc::new(Template {
                ntime: last.template.ntime,
                ..Template::clone(&template)
            })
        }
        _ => template,
    }
}

/// Channels are numbered from here, above the groups that pay the pool and below the others.
pub(crate) const FIRST_CHANNEL_ID: u32 = 64;

/// Jobs that only one channel gets have this bit in their number; the rest have the number of the work.
pub(crate) const OWN_JOB_BIT: u32 = 1 << 31;

/// Makes work of templates.
pub(crate) struct Board {
    work: Arc<Tiers<Work>>,
    task: JoinHandle<Result<(), Error>>,
}

impl Board {
    pub(crate) fn start(
        config: &Config,
        templates: &Templates,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let payout = payout::parse(&config.payout)?;
        let tag = config.pool_tag.clone();
        let (publisher, work) = tiers::channel();
        let templates = templates.clone();
        let task = tokio::spawn(async move {
            let publishing = publish_work(templates, payout, tag, publisher);
            tokio::select! {
                () = shutdown.cancelled() => Ok(()),
                result = publishing => result,
            }
        });
        Ok(Self {
            work: Arc::new(work),
            task,
        })
    }

    pub(crate) fn work(&self) -> Arc<Tiers<Work>> {
        Arc::clone(&self.work)
    }

    /// Ends when there can be no more work, with the reason where that is the operator's to mend.
    pub(crate) async fn ended(&mut self) -> Result<(), Error> {
        (&mut self.task).await.unwrap_or(Err(Error::NoMoreWork))
    }
}

async fn publish_work(
    templates: Templates,
    payout: payout::Payout,
    tag: String,
    publisher: Publisher<Work>,
) -> Result<(), Error> {
    let mut newest = templates.subscribe();
    templates.ready().await?;
    let mut pool = None;
    let mut last = None;
    let mut id = 0;
    loop {
        let template = newest.borrow_and_update().clone();
        if let (Some(template), Some(network)) = (template, templates.network()) {
            let pool = match &pool {
                Some(pool) => pool,
                None => {
                    let script = payout.script(network)?;
                    &*pool.insert(Arc::new(Payee::pool(Recipe::new(&script, &tag))))
                }
            };
            id = (id + 1) % OWN_JOB_BIT;
            if let Some(work) = next_work(id, network, template, pool, last.as_deref()) {
                publisher.publish(Arc::clone(&work)).await;
                last = Some(work);
            }
        }
        if newest.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// The work of a template; `None`, and told, where the template cannot be made into any.
fn next_work(
    id: u32,
    network: Network,
    template: Arc<Template>,
    pool: &Arc<Payee>,
    last: Option<&Work>,
) -> Option<Arc<Work>> {
    let template = not_before(template, last);
    let height = template.height();
    let transactions = template.body.transaction_count();
    let work = Work::new(id, network, template, pool)
        .inspect_err(|problem| error!(height, problem, "a template cannot be made into a job"))
        .ok()?;
    if last.map(Work::tip) != Some(work.tip()) {
        info!(height, transactions, job = id, "new tip");
    }
    Some(Arc::new(work))
}
