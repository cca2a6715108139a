//! A chart of hashrate over time, as what a page needs to draw it: paths in a square of 1,000 by 1,000 that is stretched to
//! any size, and labels with their places in percent, so that text is never stretched.

use std::fmt::Write as _;

use super::format;
use crate::series::{Period, Sample};

/// The side of the square.
const SIDE: f64 = 1000.0;

/// Lines across the chart, at most.
const MOST_LINES: f64 = 4.0;

/// The time that a chart shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// 1 h, by the minute.
    Hour,
    /// 24 h, by ten minutes.
    Day,
    /// 7 d, by the hour.
    Week,
    /// 30 d, by four hours.
    Month,
}

impl Range {
    /// All of them, shortest first.
    pub const ALL: [Self; 4] = [Self::Hour, Self::Day, Self::Week, Self::Month];

    /// As it stands in a URL and on a button.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hour => "1h",
            Self::Day => "24h",
            Self::Week => "7d",
            Self::Month => "30d",
        }
    }

    /// The range of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|range| range.name() == name)
    }

    /// Its length in milliseconds.
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.step_ms() * self.steps() as u64
    }

    /// The samples that it is made of.
    #[must_use]
    pub const fn period(self) -> Period {
        match self {
            Self::Hour => Period::Minute,
            Self::Day => Period::TenMinutes,
            Self::Week | Self::Month => Period::Hour,
        }
    }

    const fn step_ms(self) -> u64 {
        match self {
            Self::Month => 4 * Period::Hour.ms(),
            range => range.period().ms(),
        }
    }

    const fn steps(self) -> usize {
        match self {
            Self::Hour => 60,
            Self::Day => 144,
            Self::Week => 168,
            Self::Month => 180,
        }
    }

    /// Which part of a moment its labels show.
    #[cfg(feature = "service")]
    pub(super) const fn part(self) -> &'static str {
        match self {
            Self::Hour | Self::Day => "time",
            Self::Week | Self::Month => "date",
        }
    }

    /// The part of a moment that tells one label of this range from the next.
    fn label(self, unix_ms: u64) -> String {
        let moment = format::moment(unix_ms);
        match self {
            Self::Hour | Self::Day => moment[11..16].to_owned(),
            Self::Week | Self::Month => moment[5..10].to_owned(),
        }
    }
}

/// What there is to draw.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// The time shown.
    pub range: Range,
    /// `d` of the line's path.
    pub line: String,
    /// `d` of the path that fills what is under the line.
    pub area: String,
    /// Lines across, from the bottom: places in percent from the top, and what they stand for.
    pub lines: Vec<Label>,
    /// Labels under the chart: places in percent from the left.
    pub times: Vec<Time>,
    /// One for each step, from the left: what is shown under the pointer.
    pub steps: Vec<Step>,
    /// In words, for those who do not see it.
    pub summary: String,
}

/// A text at a place.
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    /// In percent.
    pub at: f64,
    /// What it says.
    pub text: String,
}

/// A label of the time.
#[derive(Debug, Clone, PartialEq)]
pub struct Time {
    /// In percent.
    pub at: f64,
    /// The moment.
    pub at_ms: u64,
    /// What it says, in UTC.
    pub text: String,
}

/// A step of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// When it began.
    pub start_ms: u64,
    /// The hashrate, or that nothing is known.
    pub value: String,
    /// In percent from the top; none where nothing is known.
    pub at: Option<f64>,
}

impl Chart {
    /// Draws the samples of a time that ends now. Steps without a sample after the first one are times without work; before
    /// it, nothing is known.
    #[must_use]
    pub fn draw(range: Range, now_ms: u64, samples: &[Sample]) -> Self {
        let rates = rates(range, now_ms, samples);
        let known: Vec<f64> = rates.iter().filter_map(|(_, rate)| *rate).collect();
        let most = known.iter().copied().fold(0.0, f64::max);
        let (top, step) = scale(most);
        let height = |rate: f64| SIDE * (1.0 - rate / top);
        let (line, area) = paths(&rates, height);
        let steps = rates.iter().map(|(start_ms, rate)| Step {
            start_ms: *start_ms,
            value: rate.map_or("nothing known".into(), format::hashrate),
            at: rate.map(|rate| height(rate) / SIDE * 100.0),
        });
        let mut lines = Vec::new();
        let mut value = 0.0;
        while value <= top * 1.001 {
            lines.push(Label {
                at: height(value) / SIDE * 100.0,
                text: format::hashrate(value),
            });
            value += step;
        }
        Self {
            range,
            line,
            area,
            lines,
            times: times(range, &rates),
            summary: summary(range, &known),
            steps: steps.collect(),
        }
    }

    /// Whether there is nothing to show.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }
}

/// Each step's start and hashrate.
#[allow(clippy::cast_precision_loss)]
fn rates(range: Range, now_ms: u64, samples: &[Sample]) -> Vec<(u64, Option<f64>)> {
    let step = range.step_ms();
    // The present step is not over, so that it would look like a fall.
    let end = now_ms / step * step;
    let start = end.saturating_sub(range.ms());
    let mut hashes = vec![None; range.steps()];
    for sample in samples {
        let Some(since) = sample.start_ms.checked_sub(start) else {
            continue;
        };
        let at = usize::try_from(since / step).unwrap_or(usize::MAX);
        if sample.period == range.period()
            && let Some(place) = hashes.get_mut(at)
        {
            *place = Some(place.unwrap_or(0.0) + sample.hashes);
        }
    }
    // Of its first step, a subject that has just begun has worked a part.
    let first = hashes.iter().position(Option::is_some);
    let first = first.map(|first| if first > 0 { first + 1 } else { 0 });
    let seconds = step as f64 / 1000.0;
    let rate = |(at, hashes): (usize, Option<f64>)| {
        let known = first.is_some_and(|first| at >= first);
        let rate = known.then(|| hashes.unwrap_or(0.0) / seconds);
        (start + at as u64 * step, rate)
    };
    hashes.into_iter().enumerate().map(rate).collect()
}

/// The top of the chart and the distance of its lines: round numbers.
fn scale(most: f64) -> (f64, f64) {
    if most <= 0.0 {
        return (1.0, 1.0);
    }
    let rough = most / MOST_LINES;
    let magnitude = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * magnitude)
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    ((most / step).ceil().max(1.0) * step, step)
}

/// The line, and the area under it. Where nothing is known there is neither. It begins with a length of nothing, so that one
/// step alone is seen as a dot.
#[allow(clippy::cast_precision_loss)]
fn paths(rates: &[(u64, Option<f64>)], height: impl Fn(f64) -> f64) -> (String, String) {
    let width = SIDE / rates.len().max(1) as f64;
    let (mut line, mut area) = (String::new(), String::new());
    let mut last = 0.0;
    for (at, (_, rate)) in rates.iter().enumerate() {
        let Some(rate) = rate else { continue };
        let (x, y) = ((at as f64 + 0.5) * width, height(*rate));
        // Writing to a String cannot fail.
        let _ = if line.is_empty() {
            write!(area, "M{x:.1} {SIDE:.0}L{x:.1} {y:.1}").and(write!(line, "M{x:.1} {y:.1}h0"))
        } else {
            write!(area, "L{x:.1} {y:.1}").and(write!(line, "L{x:.1} {y:.1}"))
        };
        last = x;
    }
    if !area.is_empty() {
        let _ = write!(area, "L{last:.1} {SIDE:.0}Z");
    }
    (line, area)
}

/// A label for about every sixth of the time.
#[allow(clippy::cast_precision_loss)]
fn times(range: Range, rates: &[(u64, Option<f64>)]) -> Vec<Time> {
    let every = (rates.len() / 6).max(1);
    let label = |(at, (start_ms, _)): (usize, &(u64, Option<f64>))| Time {
        at: at as f64 / rates.len() as f64 * 100.0,
        at_ms: *start_ms,
        text: range.label(*start_ms),
    };
    rates.iter().enumerate().step_by(every).map(label).collect()
}

#[allow(clippy::cast_precision_loss)]
fn summary(range: Range, known: &[f64]) -> String {
    let (Some(last), false) = (known.last(), known.is_empty()) else {
        return format!("No hashrate is known for the last {}.", range.name());
    };
    let mean = known.iter().sum::<f64>() / known.len() as f64;
    let most = known.iter().copied().fold(0.0, f64::max);
    format!(
        "Hashrate over the last {}: {} now, {} on average, {} at most.",
        range.name(),
        format::hashrate(*last),
        format::hashrate(mean),
        format::hashrate(most)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_123_456;

    /// An hour of a steady subject that began so many minutes ago.
    fn minutes(count: u64, hashes: f64) -> Vec<Sample> {
        let present = NOW / 60_000;
        (present - count..present)
            .map(|minute| Sample {
                period: Period::Minute,
                start_ms: minute * 60_000,
                hashes,
            })
            .collect()
    }

    #[test]
    fn a_steady_hashrate_is_a_level_line_below_the_top() {
        let chart = Chart::draw(Range::Hour, NOW, &minutes(60, 60.0 * 1.3e12));
        assert_eq!(chart.steps.len(), 60);
        assert!(chart.steps.iter().all(|step| step.value == "1.30 TH/s"));
        let heights: Vec<_> = chart.steps.iter().filter_map(|step| step.at).collect();
        assert!(heights.iter().all(|at| (0.0..100.0).contains(at)));
        assert_eq!(chart.lines.first().unwrap().text, "0 H/s");
        assert_eq!(chart.lines.last().unwrap().text, "1.50 TH/s");
        assert!(chart.lines.len() <= 6);
        assert!(chart.summary.contains("1.30 TH/s now"));
    }

    #[test]
    fn before_the_first_sample_nothing_is_known_and_after_it_silence_is_zero() {
        let mut samples = minutes(30, 6e9);
        samples.remove(10);
        let chart = Chart::draw(Range::Hour, NOW, &samples);
        assert!(chart.steps[..31].iter().all(|step| step.at.is_none()));
        assert!(chart.steps[31].at.is_some());
        assert_eq!(chart.steps[40].value, "0 H/s");
        assert_eq!(chart.steps[41].value, "100 MH/s");
    }

    #[test]
    fn without_samples_there_is_nothing_to_draw() {
        let chart = Chart::draw(Range::Month, NOW, &[]);
        assert!(chart.is_empty() && chart.area.is_empty());
        assert!(chart.summary.starts_with("No hashrate"));
    }

    #[test]
    fn four_hours_of_a_month_are_one_step() {
        let hour = NOW / 3_600_000;
        let samples: Vec<_> = (hour - 700..hour)
            .map(|hour| Sample {
                period: Period::Hour,
                start_ms: hour * 3_600_000,
                hashes: 3600.0 * 5e18,
            })
            .collect();
        let chart = Chart::draw(Range::Month, NOW, &samples);
        assert_eq!(chart.steps[100].value, "5.00 EH/s");
    }

    #[test]
    fn ranges_are_found_by_their_names() {
        for range in Range::ALL {
            assert_eq!(Range::named(range.name()), Some(range));
        }
        assert_eq!(Range::named("1y"), None);
        assert_eq!(Range::Month.ms(), 30 * 86_400_000);
    }
}
