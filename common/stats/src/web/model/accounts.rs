//! Accounts: who is paid for the work of their workers.

use std::collections::HashMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::{List, Page, Shares, Sort, counted};
use crate::Now;
use crate::board::{Board, Of};
use crate::series::Window;
use crate::state::{Link, Totals, Worker};

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

/// An account's sums.
#[derive(Debug, Default)]
pub(crate) struct Account {
    name: String,
    workers_active: usize,
    workers: usize,
    ten_minutes: Option<f64>,
    day: Option<f64>,
    totals: Totals,
}

impl Account {
    fn add(&mut self, worker: &Worker, is_down: bool, rate: impl Fn(Window) -> Option<f64>) {
        self.workers += 1;
        self.workers_active += usize::from(!is_down && !worker.sessions.is_empty());
        for (sum, window) in [
            (&mut self.ten_minutes, Window::TenMinutes),
            (&mut self.day, Window::Day),
        ] {
            if let Some(rate) = rate(window) {
                *sum = Some(sum.unwrap_or_default() + rate);
            }
        }
        self.totals.add(&worker.ended);
        for session in worker.sessions.values() {
            self.totals.add_session(&session.counters);
        }
    }
}

/// The sums of all accounts, in no order.
pub(crate) fn all_accounts(board: &Board, now: Now, roles: &[&str]) -> Vec<Account> {
    let mut found = HashMap::<&str, Account>::new();
    for (sender, known) in counted(board, roles) {
        let is_down = known.link(now) == Link::Down;
        let rates = board.rates(sender);
        for (key, worker) in known.workers() {
            let rate = |window| rates.hashrate(now, Of::Worker(key), window);
            let account = found.entry(&key.account).or_default();
            account.add(worker, is_down, rate);
        }
    }
    let named = |(name, account): (&str, Account)| Account {
        name: name.to_owned(),
        ..account
    };
    found.into_iter().map(named).collect()
}

/// A page of those that are looked for; nobody has to wait for that.
pub(crate) fn accounts(all: &[Account], list: &List) -> Page<AccountRow> {
    let found = all.iter().filter(|account| list.finds(&[&account.name]));
    let mut rows: Vec<_> = found
        .map(|found| (number(found, list.sort), found))
        .collect();
    rows.sort_unstable_by(|(a, one), (b, other)| {
        a.total_cmp(b).then_with(|| one.name.cmp(&other.name))
    });
    list.page(rows.iter(), |(_, account)| {
        Some(AccountRow {
            account: account.name.clone(),
            workers_active: account.workers_active,
            workers: account.workers,
            ten_minutes: account.ten_minutes,
            day: account.day,
            shares: Shares::from(&account.totals.counters),
        })
    })
}

/// What it is sorted by.
#[allow(clippy::cast_precision_loss)]
fn number(account: &Account, sort: Sort) -> f64 {
    let counters = &account.totals.counters;
    match sort {
        Sort::Name | Sort::Uptime => 0.0,
        Sort::Hashrate => account.ten_minutes.unwrap_or(-1.0),
        Sort::Accepted => counters.accepted as f64,
        Sort::Rejected => counters.rejected() as f64,
        Sort::LastShare => counters.last_share_ms.unwrap_or(0) as f64,
    }
}
