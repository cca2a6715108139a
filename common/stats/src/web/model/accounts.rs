//! Accounts: who is paid for the work of their workers.

use std::collections::HashMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::{List, Page, Shares, Sort, counted};
use crate::Now;
use crate::board::{Board, Of};
use crate::series::Window;
use crate::state::{Link, SenderKey, Totals, Worker, WorkerKey};

/// An account, of all services that have workers of it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct AccountRow {
    /// Who is paid.
    pub(crate) account: String,
    /// Workers with an open session; none where their service cannot be heard.
    pub(crate) workers_active: usize,
    /// Workers that were ever seen.
    pub(crate) workers: usize,
    /// Hashrate over 10 min, in H/s.
    pub(crate) ten_minutes: Option<f64>,
    /// Hashrate over 24 h, in H/s.
    pub(crate) day: Option<f64>,
    /// Of all sessions of all workers.
    pub(crate) shares: Shares,
}

/// The workers of an account, where they are.
#[derive(Default)]
struct Account<'a> {
    workers: Vec<(&'a SenderKey, &'a WorkerKey, &'a Worker)>,
    active: usize,
}

impl Account<'_> {
    fn hashrate(&self, board: &Board, now: Now, window: Window) -> Option<f64> {
        let workers = self.workers.iter();
        workers
            .filter_map(|(sender, key, _)| board.hashrate(now, sender, Of::Worker(key), window))
            .reduce(|sum, rate| sum + rate)
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for (_, _, worker) in &self.workers {
            totals.add(&worker.totals());
        }
        totals
    }
}

pub(crate) fn accounts(board: &Board, now: Now, roles: &[&str], list: &List) -> Page<AccountRow> {
    let mut found = HashMap::<&str, Account<'_>>::new();
    for (sender, known) in counted(board, roles) {
        let is_down = known.link(now) == Link::Down;
        for (key, worker) in known.workers() {
            if list.finds(&[&key.account]) {
                let account = found.entry(&key.account).or_default();
                account.active += usize::from(!is_down && !worker.sessions.is_empty());
                account.workers.push((sender, key, worker));
            }
        }
    }
    let rows = found.into_iter().map(|(name, account)| {
        let number = number(board, now, &account, list.sort);
        (number, name, account)
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort_unstable_by(|(a, one, _), (b, other, _)| a.total_cmp(b).then_with(|| one.cmp(other)));
    list.page(rows.iter(), |(_, name, account)| {
        Some(AccountRow {
            account: (*name).to_owned(),
            workers_active: account.active,
            workers: account.workers.len(),
            ten_minutes: account.hashrate(board, now, Window::TenMinutes),
            day: account.hashrate(board, now, Window::Day),
            shares: Shares::from(&account.totals().counters),
        })
    })
}

/// What it is sorted by.
#[allow(clippy::cast_precision_loss)]
fn number(board: &Board, now: Now, account: &Account<'_>, sort: Sort) -> f64 {
    match sort {
        Sort::Name | Sort::Uptime => 0.0,
        Sort::Hashrate => account
            .hashrate(board, now, Window::TenMinutes)
            .unwrap_or(-1.0),
        Sort::Accepted => account.totals().counters.accepted as f64,
        Sort::Rejected => account.totals().counters.rejected() as f64,
        Sort::LastShare => account.totals().counters.last_share_ms.unwrap_or(0) as f64,
    }
}
