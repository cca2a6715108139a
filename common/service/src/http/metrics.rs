//! Metrics that are read from a role's own counters when they are asked for.
//!
//! Nothing is counted twice and nothing on a share's path knows of metrics: a role registers one function that writes down
//! what its counters say. Label values come from the code (reasons, states); where they come from a peer, whoever registers
//! them bounds how many there are and how long. Quotes, backslashes and line ends in them are escaped.

use std::fmt;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    self, Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Error, Registry};

use crate::listener;

/// Has `collect` called at each scrape.
///
/// It is called once here too, to check the names: it has to name every family each time, those without a value included.
///
/// # Errors
/// The registry's, for a name that is not one or that is there already.
pub fn register(
    registry: &Registry,
    collect: impl Fn(&mut Families) + Send + Sync + 'static,
) -> Result<(), Error> {
    let mut families = Families::default();
    collect(&mut families);
    let descs = families
        .0
        .iter()
        .map(|family| {
            Desc::new(
                family.name().to_owned(),
                family.help().to_owned(),
                Vec::new(),
                std::collections::HashMap::new(),
            )
        })
        .collect::<Result<Vec<_>, _>>()?;
    registry.register(Box::new(Source { descs, collect }))
}

struct Source<F> {
    descs: Vec<Desc>,
    collect: F,
}

impl<F: Fn(&mut Families) + Send + Sync> Collector for Source<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Families::default();
        (self.collect)(&mut families);
        families.0
    }
}

/// What a scrape shows. Each name is given once; the unit is the name's last word, `_total` after it on counters only.
#[derive(Default)]
pub struct Families(Vec<MetricFamily>);

impl fmt::Debug for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(MetricFamily::name))
            .finish()
    }
}

impl Families {
    /// A value that only grows.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        let metric = counter(value.into(), Vec::new());
        self.push(name, help, MetricType::COUNTER, vec![metric]);
    }

    /// Values that only grow, told apart by `label`.
    pub fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        let metrics = values
            .into_iter()
            .map(|(which, value)| counter(value.into(), vec![pair(label, which)]))
            .collect();
        self.push(name, help, MetricType::COUNTER, metrics);
    }

    /// Values that only grow, told apart by several labels. No two have the same.
    pub fn counters_by<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        values: impl IntoIterator<Item = ([&'a str; N], u128)>,
    ) {
        let metrics = values
            .into_iter()
            .map(|(which, value)| counter(value, pairs(labels, which)))
            .collect();
        self.push(name, help, MetricType::COUNTER, metrics);
    }

    /// A value that comes and goes.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        let metric = gauge(value, Vec::new());
        self.push(name, help, MetricType::GAUGE, vec![metric]);
    }

    /// Values that come and go, told apart by `label`.
    pub fn gauges<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) {
        let metrics = values
            .into_iter()
            .map(|(which, value)| gauge(value, vec![pair(label, which)]))
            .collect();
        self.push(name, help, MetricType::GAUGE, metrics);
    }

    /// Values that come and go, told apart by several labels. No two have the same.
    pub fn gauges_by<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        values: impl IntoIterator<Item = ([&'a str; N], f64)>,
    ) {
        let metrics = values
            .into_iter()
            .map(|(which, value)| gauge(value, pairs(labels, which)))
            .collect();
        self.push(name, help, MetricType::GAUGE, metrics);
    }

    /// Observations by size.
    pub fn histogram<const N: usize>(&mut self, name: &str, help: &str, histogram: &Histogram<N>) {
        let mut metric = Metric::default();
        metric.set_histogram(histogram.to_proto());
        self.push(name, help, MetricType::HISTOGRAM, vec![metric]);
    }

    /// Observations by size, told apart by `label`.
    pub fn histograms<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        histograms: impl IntoIterator<Item = (&'a str, &'a Histogram<N>)>,
    ) {
        let metrics = histograms
            .into_iter()
            .map(|(which, histogram)| {
                let mut metric = Metric::from_label(vec![pair(label, which)]);
                metric.set_histogram(histogram.to_proto());
                metric
            })
            .collect();
        self.push(name, help, MetricType::HISTOGRAM, metrics);
    }

    /// Observations by size, told apart by several labels. No two have the same.
    pub fn histograms_by<'a, const N: usize, const B: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        histograms: impl IntoIterator<Item = ([&'a str; N], &'a Histogram<B>)>,
    ) {
        let metrics = histograms
            .into_iter()
            .map(|(which, histogram)| {
                let mut metric = Metric::from_label(pairs(labels, which));
                metric.set_histogram(histogram.to_proto());
                metric
            })
            .collect();
        self.push(name, help, MetricType::HISTOGRAM, metrics);
    }

    /// How full a role's listener is, and what it refused or let wait: `hashpool_<role>_refused_connections_total` and the
    /// like.
    pub fn listener(&mut self, role: &str, listener: &listener::Snapshot) {
        self.gauge(
            &format!("hashpool_{role}_open_connections"),
            "Connections that count against the limit.",
            float(listener.open),
        );
        self.gauge(
            &format!("hashpool_{role}_connections_limit"),
            "Connections that there may be at a time; further ones wait in the kernel's queue.",
            float(listener.limit),
        );
        self.counters(
            &format!("hashpool_{role}_refused_connections_total"),
            "Connections closed at the door.",
            "reason",
            listener.refusals(),
        );
        self.counters(
            &format!("hashpool_{role}_accept_pauses_total"),
            "Times that new connections had to wait.",
            "reason",
            listener.pauses(),
        );
        self.counter(
            &format!("hashpool_{role}_accept_errors_total"),
            "Errors of the system when accepting, such as a lack of file descriptors.",
            listener.accept_errors,
        );
    }

    fn push(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

/// Observations by size, as a plain value: whoever observes owns one, and a scrape adds them up.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram<const N: usize> {
    bounds: &'static [f64; N],
    counts: [u64; N],
    above: u64,
    sum: f64,
}

impl<const N: usize> Histogram<N> {
    /// Nothing observed. `bounds` rise, and each belongs to its own bucket.
    #[must_use]
    pub const fn new(bounds: &'static [f64; N]) -> Self {
        Self {
            bounds,
            counts: [0; N],
            above: 0,
            sum: 0.0,
        }
    }

    /// Counts one.
    pub fn observe(&mut self, value: f64) {
        self.observe_many(value, 1);
    }

    /// Counts so many of the same value.
    pub fn observe_many(&mut self, value: f64, count: u32) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound);
        match bucket {
            Some(bucket) => self.counts[bucket] += u64::from(count),
            None => self.above += u64::from(count),
        }
        self.sum += value * f64::from(count);
    }

    /// Adds another one of the same bounds.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.above += other.above;
        self.sum += other.sum;
    }

    /// How many were observed.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.above
    }

    fn to_proto(&self) -> proto::Histogram {
        let mut below = 0;
        let buckets = self.bounds.iter().zip(self.counts).map(|(bound, count)| {
            below += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(below);
            bucket
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(self.count());
        histogram.set_sample_sum(self.sum);
        histogram
    }
}

/// Exact up to 2^53, as all that Prometheus stores.
#[allow(clippy::cast_precision_loss)]
fn counter(value: u128, labels: Vec<LabelPair>) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

fn gauge(value: f64, labels: Vec<LabelPair>) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

/// Exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
fn float(value: u64) -> f64 {
    value as f64
}

fn pairs<const N: usize>(names: [&str; N], values: [&str; N]) -> Vec<LabelPair> {
    let pairs = names.into_iter().zip(values);
    pairs.map(|(name, value)| pair(name, value)).collect()
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}
