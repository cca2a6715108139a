//! Tables that are printed: aligned for people, or CSV for programs.

use std::borrow::Cow;

/// Text in rows and columns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Adds a row; the first is the header.
    pub(crate) fn push<const N: usize>(&mut self, row: [&str; N]) {
        self.rows.push(row.map(str::to_owned).to_vec());
    }

    /// The same for a row whose length is not fixed.
    pub(crate) fn push_all<'a>(&mut self, row: impl Iterator<Item = &'a str>) {
        self.rows.push(row.map(str::to_owned).collect());
    }

    /// As it is, for programs.
    pub(crate) fn csv(&self) -> Result<Vec<u8>, csv::Error> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for row in &self.rows {
            writer.write_record(row)?;
        }
        writer
            .into_inner()
            .map_err(|error| error.into_error().into())
    }

    /// For people. Names come from outside: what a terminal would obey is shown and not sent.
    pub(crate) fn aligned(&self) -> Vec<u8> {
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(|text| printable(text)).collect())
            .collect();
        let mut widths = vec![0; rows.first().map_or(0, Vec::len)];
        for row in &rows {
            for (width, text) in widths.iter_mut().zip(row) {
                *width = text.chars().count().max(*width);
            }
        }
        let mut out = String::new();
        for row in &rows {
            let cells = row.iter().zip(&widths);
            let line: Vec<_> = cells
                .map(|(text, width)| format!("{text:width$}"))
                .collect();
            out.push_str(line.join("  ").trim_end());
            out.push('\n');
        }
        out.into_bytes()
    }
}

fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let (shown, escaped) = match c.is_control() || reorders(c) {
                true => (None, Some(c.escape_default())),
                false => (Some(c), None),
            };
            shown.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}

/// Whether the character is not seen itself, and can change the order in which others are.
fn reorders(c: char) -> bool {
    matches!(
        c,
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
    )
}

/// A number of any size without needless digits.
pub(crate) fn significant(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.6}")
    }
}

/// A name that no spreadsheet takes for a formula.
pub(crate) fn harmless(name: &str) -> Cow<'_, str> {
    if name.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        Cow::Owned(format!("'{name}"))
    } else {
        Cow::Borrowed(name)
    }
}
