//! Whom blocks pay, with the jobs that pay them: made once for each script, for all connections together.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bitcoin::Script;
use sv2_connection::{FrameBuffer, MalformedMessage};

use crate::{
    board::Work,
    job::{Job, Recipe},
};

/// Scripts beside the pool's own that channels may have at a time. Each has a job of its own for each template.
const MOST_IN_USE: usize = 100_000;

/// Set in the ids of groups that do not pay the pool; channels are numbered below it.
pub(crate) const SOLO_GROUP_BIT: u32 = 1 << 31;

/// Bits of a group's id for the size of its extranonce, which is 32 at most.
const SIZE_BITS: u32 = 6;

/// The number of the payee that is the pool.
pub(crate) const POOL: u32 = 0;

/// The group of channels with the payee of this number and this size of the whole extranonce. It has the same id on every
/// connection, so that its frames can be shared, and is never the id of a channel.
pub(crate) fn group_id(payee: u32, extranonce_size: usize) -> u32 {
    // At most 32.
    let size = u32::try_from(extranonce_size).unwrap_or(0);
    match payee {
        POOL => size,
        number => SOLO_GROUP_BIT | number << SIZE_BITS | size,
    }
}

/// The group of channels with this payee, the pool if there is none.
pub(crate) fn group_of(payee: Option<&Payee>, extranonce_size: usize) -> u32 {
    let number = payee.map_or(POOL, |payee| payee.number);
    group_id(number, extranonce_size)
}

/// A script that blocks pay. It lives as long as a channel has it.
#[derive(Debug)]
pub(crate) struct Payee {
    number: u32,
    recipe: Recipe,
    /// What was made for the newest work. The lock is taken once per connection and job, never per share, and only by
    /// connections with this payee.
    made: Mutex<Made>,
    /// Where it is listed, unless it is the pool.
    listed: Option<Arc<Payees>>,
}

#[derive(Debug, Default)]
struct Made {
    work_id: u32,
    jobs: Vec<Prepared>,
}

/// A job for one size of extranonce, with its frames for a group as soon as one needs them.
#[derive(Debug)]
struct Prepared {
    extranonce_size: usize,
    job: Arc<Job>,
    on_new_tip: Option<FrameBuffer>,
    on_same_tip: Option<FrameBuffer>,
}

impl Payee {
    /// The pool, whose script is configured.
    pub(crate) fn pool(recipe: Recipe) -> Self {
        Self {
            number: POOL,
            recipe,
            made: Mutex::default(),
            listed: None,
        }
    }

    pub(crate) fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// See [`group_id`].
    pub(crate) fn group_id(&self, extranonce_size: usize) -> u32 {
        group_id(self.number, extranonce_size)
    }

    /// The job for channels whose whole extranonce has this size.
    pub(crate) fn job(&self, work: &Work, extranonce_size: usize) -> Arc<Job> {
        Arc::clone(&self.made(work).prepared(self, work, extranonce_size).job)
    }

    /// Appends that job, addressed to the group.
    pub(crate) fn announce_to_group(
        &self,
        work: &Work,
        extranonce_size: usize,
        new_tip: bool,
        frames: &mut FrameBuffer,
    ) -> Result<(), MalformedMessage> {
        let mut made = self.made(work);
        let prepared = made.prepared(self, work, extranonce_size);
        let encoded = if new_tip {
            &mut prepared.on_new_tip
        } else {
            &mut prepared.on_same_tip
        };
        let encoded = match encoded {
            Some(encoded) => encoded,
            None => {
                let mut fresh = FrameBuffer::new();
                let group = self.group_id(extranonce_size);
                prepared
                    .job
                    .announce(group, work.id(), new_tip, &mut fresh)?;
                encoded.insert(fresh)
            }
        };
        frames.push_frames(encoded);
        Ok(())
    }

    fn made(&self, work: &Work) -> MutexGuard<'_, Made> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.work_id != work.id() {
            *made = Made {
                work_id: work.id(),
                jobs: Vec::new(),
            };
        }
        made
    }
}

impl Made {
    fn prepared(&mut self, payee: &Payee, work: &Work, extranonce_size: usize) -> &mut Prepared {
        let known = self
            .jobs
            .iter()
            .position(|prepared| prepared.extranonce_size == extranonce_size);
        let at = known.unwrap_or_else(|| {
            self.jobs.push(Prepared {
                extranonce_size,
                job: Arc::new(work.make_job(&payee.recipe, extranonce_size)),
                on_new_tip: None,
                on_same_tip: None,
            });
            self.jobs.len() - 1
        });
        &mut self.jobs[at]
    }
}

impl Drop for Payee {
    fn drop(&mut self) {
        if let Some(payees) = &self.listed {
            payees.remove(self);
        }
    }
}

/// The payees in use beside the pool.
#[derive(Debug)]
pub(crate) struct Payees {
    tag: String,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_script: HashMap<Vec<u8>, Weak<Payee>>,
    numbers: HashSet<u32>,
    last_number: u32,
}

impl Payees {
    /// Their coinbases carry this tag.
    pub(crate) fn new(tag: &str) -> Arc<Self> {
        Arc::new(Self {
            tag: tag.to_owned(),
            table: Mutex::default(),
        })
    }

    /// The payee with this script; nothing if too many others are in use.
    pub(crate) fn get(self: &Arc<Self>, script: &Script) -> Option<Arc<Payee>> {
        let mut table = self.table();
        let listed = table.by_script.get(script.as_bytes());
        if let Some(payee) = listed.and_then(Weak::upgrade) {
            return Some(payee);
        }
        if table.numbers.len() >= MOST_IN_USE {
            return None;
        }
        let payee = Arc::new(Payee {
            number: table.free_number(),
            recipe: Recipe::new(script, &self.tag),
            made: Mutex::default(),
            listed: Some(Arc::clone(self)),
        });
        table
            .by_script
            .insert(script.to_bytes(), Arc::downgrade(&payee));
        Some(payee)
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn in_use(&self) -> usize {
        let table = self.table();
        assert_eq!(table.numbers.len(), table.by_script.len());
        table.numbers.len()
    }

    fn remove(&self, payee: &Payee) {
        let mut table = self.table();
        table.numbers.remove(&payee.number);
        // Somebody may have come for the script meanwhile; then it is listed anew.
        let script = &payee.recipe.payout;
        if table
            .by_script
            .get(script)
            .is_some_and(|listed| listed.strong_count() == 0)
        {
            table.by_script.remove(script);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// A number above 0 that no payee has; there are far more of them than payees.
    fn free_number(&mut self) -> u32 {
        const NUMBERS: u32 = SOLO_GROUP_BIT >> SIZE_BITS;
        loop {
            self.last_number = self.last_number % (NUMBERS - 1) + 1;
            if self.numbers.insert(self.last_number) {
                return self.last_number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(number: u8) -> bitcoin::ScriptBuf {
        bitcoin::ScriptBuf::from_bytes(vec![0x51, number])
    }

    #[test]
    fn a_payee_is_shared_while_it_is_in_use_and_forgotten_after() {
        let payees = Payees::new("test");
        let first = payees.get(&script(1)).unwrap();
        let again = payees.get(&script(1)).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        let other = payees.get(&script(2)).unwrap();
        assert_ne!(first.group_id(16), other.group_id(16));
        assert_ne!(first.group_id(16), first.group_id(32));
        assert!(first.group_id(32) >= SOLO_GROUP_BIT);
        drop(first);
        assert_eq!(payees.in_use(), 2, "somebody has it still");
        drop((again, other));
        assert_eq!(payees.in_use(), 0);
    }

    #[test]
    fn numbers_do_not_collide_when_they_come_round() {
        let payees = Payees::new("test");
        let first = payees.get(&script(1)).unwrap();
        payees.table().last_number = (SOLO_GROUP_BIT >> SIZE_BITS) - 2;
        let last = payees.get(&script(2)).unwrap();
        assert_eq!(last.group_id(32), u32::MAX - 31);
        let next = payees.get(&script(3)).unwrap();
        assert_eq!((first.number, next.number), (1, 2));
    }
}
