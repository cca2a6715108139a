//! Numbers as people read them.

/// Steps of a thousand.
const PREFIXES: [&str; 9] = ["", "k", "M", "G", "T", "P", "E", "Z", "Y"];

/// A hashrate in H/s, with three significant digits: `1.23 TH/s`.
#[must_use]
pub fn hashrate(hashes_per_second: f64) -> String {
    scaled(hashes_per_second, "H/s")
}

/// An expected number of hashes: `1.23 EH`.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn work(hashes: u128) -> String {
    scaled(hashes as f64, "H")
}

/// A difficulty: `1.23 M`, or as it is where it is small.
#[must_use]
pub fn difficulty(difficulty: f64) -> String {
    // Those of a CPU on a chain for trying things out.
    if difficulty > 0.0 && difficulty < 0.01 {
        let (mut digits, mut scaled) = (2, difficulty);
        while scaled < 1.0 && digits < 14 {
            scaled *= 10.0;
            digits += 1;
        }
        return format!("{difficulty:.digits$}");
    }
    scaled(difficulty, "").trim_end().to_owned()
}

/// A whole number with its digits in groups: `1,234,567`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A part of a whole, in percent: `0.52 %`; a dash where there is no whole.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".into();
    }
    let percent = 100.0 * part as f64 / whole as f64;
    match percent {
        0.0 => "0 %".into(),
        ..0.01 => "< 0.01 %".into(),
        ..10.0 => format!("{percent:.2} %"),
        _ => format!("{percent:.1} %"),
    }
}

/// How long: the two largest units, `3 d 4 h`.
#[must_use]
pub fn duration(ms: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)];
    let seconds = ms / 1000;
    let Some(first) = UNITS.iter().position(|(_, unit)| seconds >= *unit) else {
        return "0 s".into();
    };
    let (name, unit) = UNITS[first];
    let whole = format!("{} {name}", seconds / unit);
    match UNITS.get(first + 1) {
        Some((next, smaller)) if (seconds % unit) / smaller > 0 => {
            format!("{whole} {} {next}", (seconds % unit) / smaller)
        }
        _ => whole,
    }
}

/// How long ago: `12 s ago`.
#[must_use]
pub fn ago(at_ms: u64, now_ms: u64) -> String {
    match now_ms.saturating_sub(at_ms) {
        ..1000 => "just now".into(),
        since => format!("{} ago", duration(since)),
    }
}

/// A moment in UTC: `2026-11-21 16:27:03`.
#[must_use]
pub fn moment(unix_ms: u64) -> String {
    let (days, seconds) = (unix_ms / 86_400_000, unix_ms / 1000 % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// Satoshi as bitcoin: `3.125 BTC`.
#[must_use]
pub fn bitcoin(satoshi: u64) -> String {
    let (whole, rest) = (satoshi / 100_000_000, satoshi % 100_000_000);
    let digits = format!("{whole}.{rest:08}");
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{digits} BTC")
}

fn scaled(value: f64, unit: &str) -> String {
    if !value.is_finite() || value <= 0.0 {
        return format!("0 {unit}");
    }
    let mut value = value;
    let mut prefix = 0;
    // What would be rounded up to a thousand has the next prefix.
    while value >= 999.5 && prefix + 1 < PREFIXES.len() {
        value /= 1000.0;
        prefix += 1;
    }
    let digits = match value {
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    };
    format!("{digits} {}{unit}", PREFIXES[prefix])
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let mut year = 1970 + 400 * (days / DAYS_OF_400_YEARS);
    let mut rest = days % DAYS_OF_400_YEARS;
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    loop {
        let length = 365 + u64::from(is_leap(year));
        if rest < length {
            break;
        }
        rest -= length;
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in months {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashrates_are_short_from_one_hash_to_many_zettahashes() {
        for (value, text) in [
            (0.0, "0 H/s"),
            (f64::NAN, "0 H/s"),
            (1.0, "1.00 H/s"),
            (999.4, "999 H/s"),
            (999.6, "1.00 kH/s"),
            (1.2345e12, "1.23 TH/s"),
            (99.96e12, "100 TH/s"),
            (98.7e15, "98.7 PH/s"),
            (1.5e21, "1.50 ZH/s"),
            (4.2e27, "4200 YH/s"),
        ] {
            assert_eq!(hashrate(value), text);
        }
    }

    #[test]
    fn difficulties_are_short_too() {
        for (value, text) in [
            (0.000_005, "0.00000500"),
            (0.000_173_2, "0.000173"),
            (0.001_609, "0.00161"),
            (0.5, "0.50"),
            (500_000.0, "500 k"),
            (1.1e14, "110 T"),
        ] {
            assert_eq!(difficulty(value), text);
        }
    }

    #[test]
    fn counts_and_parts_are_easy_to_read() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(percent(0, 0), "–");
        assert_eq!(percent(0, 5), "0 %");
        assert_eq!(percent(1, 1_000_000), "< 0.01 %");
        assert_eq!(percent(1, 200), "0.50 %");
        assert_eq!(percent(1, 3), "33.3 %");
    }

    #[test]
    fn times_are_in_two_units_at_most() {
        for (ms, text) in [
            (0, "0 s"),
            (59_999, "59 s"),
            (60_000, "1 min"),
            (3_725_000, "1 h 2 min"),
            (90_000_000, "1 d 1 h"),
            (86_400_000, "1 d"),
        ] {
            assert_eq!(duration(ms), text);
        }
        assert_eq!(ago(10_000, 9_000), "just now");
        assert_eq!(ago(1_000, 61_000), "1 min ago");
    }

    #[test]
    fn moments_are_of_the_calendar() {
        for (unix_ms, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400_000, "2000-02-29 00:00:00"),
            (1_231_006_505_000, "2009-01-03 18:15:05"),
            (4_107_542_399_000, "2100-02-28 23:59:59"),
            (4_107_542_400_000, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(moment(unix_ms), text);
        }
    }

    #[test]
    fn rewards_are_exact() {
        assert_eq!(bitcoin(312_500_000), "3.125 BTC");
        assert_eq!(bitcoin(5_000_000_000), "50 BTC");
        assert_eq!(bitcoin(1), "0.00000001 BTC");
        assert_eq!(bitcoin(0), "0 BTC");
    }
}
