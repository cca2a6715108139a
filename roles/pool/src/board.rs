//! The newest work, published for all connections.

use std::sync::{Arc, Mutex, PoisonError};

use sv2_connection::{FrameBuffer, MalformedMessage};
use templates::{Template, Templates};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use work::Target;

use crate::{
    Config, Error,
    extranonce::{PREFIX_SIZE, ROLLABLE_SIZE},
    job::{Job, Recipe},
    payout,
};

/// Bytes of the whole extranonce of channels that ask for nothing else.
pub(crate) const USUAL_EXTRANONCE: usize = PREFIX_SIZE + ROLLABLE_SIZE;

/// A template with the jobs made of it. Template and tip are one value, so that there is no moment between them.
#[derive(Debug)]
pub(crate) struct Work {
    id: u32,
    template: Arc<Template>,
    network_target: Target,
    recipe: Arc<Recipe>,
    usual: Arc<Job>,
    /// For channels that need a longer extranonce. The lock is taken once per connection and job, never per share.
    unusual: Mutex<Vec<(usize, Arc<Job>)>>,
    /// The usual job, encoded once for the group of that size: with a new tip, and as another job on the same.
    on_new_tip: FrameBuffer,
    on_same_tip: FrameBuffer,
}

impl Work {
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

    pub(crate) fn network_target(&self) -> Target {
        self.network_target
    }

    /// The job for channels whose whole extranonce has this size.
    pub(crate) fn job(&self, extranonce_size: usize) -> Arc<Job> {
        if extranonce_size == USUAL_EXTRANONCE {
            return Arc::clone(&self.usual);
        }
        let mut jobs = self.unusual.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, job)) = jobs.iter().find(|(size, _)| *size == extranonce_size) {
            return Arc::clone(job);
        }
        let job = Arc::new(Job::new(
            Arc::clone(&self.template),
            self.network_target,
            &self.recipe,
            extranonce_size,
        ));
        jobs.push((extranonce_size, Arc::clone(&job)));
        job
    }

    /// Appends the job for the group of channels whose whole extranonce has this size.
    pub(crate) fn announce_to_group(
        &self,
        extranonce_size: usize,
        new_tip: bool,
        frames: &mut FrameBuffer,
    ) -> Result<(), MalformedMessage> {
        if extranonce_size == USUAL_EXTRANONCE {
            frames.push_frames(if new_tip {
                &self.on_new_tip
            } else {
                &self.on_same_tip
            });
            return Ok(());
        }
        let job = self.job(extranonce_size);
        job.announce(group_id(extranonce_size), self.id, new_tip, frames)
    }

    pub(crate) fn new(
        id: u32,
        template: Arc<Template>,
        recipe: &Arc<Recipe>,
    ) -> Result<Self, String> {
        let network_target =
            Target::from_compact(template.nbits).map_err(|error| error.to_string())?;
        let usual = Arc::new(Job::new(
            Arc::clone(&template),
            network_target,
            recipe,
            USUAL_EXTRANONCE,
        ));
        let encode = |new_tip| {
            let mut frames = FrameBuffer::new();
            usual
                .announce(group_id(USUAL_EXTRANONCE), id, new_tip, &mut frames)
                .map_err(|error| error.to_string())?;
            Ok::<_, String>(frames)
        };
        Ok(Self {
            id,
            network_target,
            recipe: Arc::clone(recipe),
            on_new_tip: encode(true)?,
            on_same_tip: encode(false)?,
            usual,
            unusual: Mutex::default(),
            template,
        })
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

/// The group channel for a size of extranonce is the same on every connection, so that its frames can be shared.
pub(crate) fn group_id(extranonce_size: usize) -> u32 {
    // At most 32.
    u32::try_from(extranonce_size).unwrap_or(u32::MAX)
}

/// Channels are numbered from here, above all groups.
pub(crate) const FIRST_CHANNEL_ID: u32 = 64;

/// Jobs that only one channel gets have this bit in their number; the rest have the number of the work.
pub(crate) const OWN_JOB_BIT: u32 = 1 << 31;

/// Makes work of templates.
pub(crate) struct Board {
    work: watch::Receiver<Option<Arc<Work>>>,
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
        let (publish, work) = watch::channel(None);
        let templates = templates.clone();
        let task = tokio::spawn(async move {
            let publishing = publish_work(templates, payout, tag, publish);
            tokio::select! {
                () = shutdown.cancelled() => Ok(()),
                result = publishing => result,
            }
        });
        Ok(Self { work, task })
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<Work>>> {
        self.work.clone()
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
    publish: watch::Sender<Option<Arc<Work>>>,
) -> Result<(), Error> {
    let mut newest = templates.subscribe();
    templates.ready().await?;
    let mut recipe = None;
    let mut id = 0;
    loop {
        let template = newest.borrow_and_update().clone();
        if let (Some(template), Some(network)) = (template, templates.network()) {
            let recipe = match &recipe {
                Some(recipe) => recipe,
                None => {
                    let script = payout.script(network)?;
                    &*recipe.insert(Arc::new(Recipe::new(&script, &tag)))
                }
            };
            id = (id + 1) % OWN_JOB_BIT;
            publish_one(id, template, recipe, &publish);
        }
        if newest.changed().await.is_err() {
            return Ok(());
        }
    }
}

fn publish_one(
    id: u32,
    template: Arc<Template>,
    recipe: &Arc<Recipe>,
    publish: &watch::Sender<Option<Arc<Work>>>,
) {
    let template = not_before(template, publish.borrow().as_deref());
    let height = template.height();
    let transactions = template.body.transaction_count();
    match Work::new(id, template, recipe) {
        Ok(work) => {
            let old_tip = publish.borrow().as_ref().map(|old| old.tip());
            let new_tip = old_tip != Some(work.tip());
            publish.send_replace(Some(Arc::new(work)));
            if new_tip {
                info!(height, transactions, job = id, "new tip");
            }
        }
        Err(problem) => error!(height, problem, "a template cannot be made into a job"),
    }
}
