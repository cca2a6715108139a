//! Values that know where they were given.

use toml::de::{DeInteger, DeTable, DeValue};

use super::{ConfigError, Place};

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Table(Table),
    Array(Vec<Node>),
    Bool(bool),
    Integer(i128),
    Float(f64),
    String(String),
    /// Given in the environment or on the command line: a string, or TOML's notation of something else.
    Text(String),
}

impl Value {
    /// The text of a string.
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) | Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Keys in the order in which they are to be read.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub(super) entries: Vec<(String, Node)>,
}

impl Table {
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries
            .iter()
            .find_map(|(name, node)| (name == key).then_some(node))
    }

    /// The entries by their places in a list of this length; nothing unless each key is such a place.
    pub(super) fn places(&self, length: usize) -> Option<Vec<(usize, &Node)>> {
        self.entries
            .iter()
            .map(|(key, node)| Some((key.parse().ok().filter(|place| *place < length)?, node)))
            .collect()
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.entries
            .iter_mut()
            .find_map(|(name, node)| (name == key).then_some(node))
    }

    /// Sets the value at `path`, making the tables on the way. The last value for a path wins.
    ///
    /// # Errors
    /// In words, when one key is to be a value and a table.
    pub(super) fn set(&mut self, path: &[&str], node: Node) -> Result<(), String> {
        let Some((key, rest)) = path.split_first() else {
            return Ok(());
        };
        if key.is_empty() {
            return Err("a part of the key is empty".into());
        }
        let both = || Err(format!("\"{key}\" is given a value and keys of its own"));
        if rest.is_empty() {
            match self.get_mut(key) {
                Some(present) if matches!(present.value, Value::Table(_)) => return both(),
                Some(present) => *present = node,
                None => self.entries.push(((*key).to_owned(), node)),
            }
            return Ok(());
        }
        if self.get(key).is_none() {
            let table = Node {
                place: node.place.clone(),
                value: Value::Table(Self::default()),
            };
            self.entries.push(((*key).to_owned(), table));
        }
        match self.get_mut(key).map(|node| &mut node.value) {
            Some(Value::Table(table)) => table.set(rest, node),
            _ => both(),
        }
    }
}

impl Node {
    /// A table without keys, which is all defaults.
    pub(super) fn root() -> Self {
        Self::table(Table::default())
    }

    pub(super) fn table(table: Table) -> Self {
        Self {
            place: Place::Defaults,
            value: Value::Table(table),
        }
    }

    pub(super) fn text(place: Place, text: String) -> Self {
        Self {
            place,
            value: Value::Text(text),
        }
    }

    /// The paths of all texts.
    pub(super) fn text_paths(&self) -> Vec<Vec<String>> {
        fn walk(node: &Node, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
            match &node.value {
                Value::Text(_) => found.push(path.clone()),
                Value::Table(table) => {
                    for (key, node) in &table.entries {
                        path.push(key.clone());
                        walk(node, path, found);
                        path.pop();
                    }
                }
                Value::Array(nodes) => {
                    for (place, node) in nodes.iter().enumerate() {
                        path.push(place.to_string());
                        walk(node, path, found);
                        path.pop();
                    }
                }
                _ => {}
            }
        }
        let mut found = Vec::new();
        walk(self, &mut Vec::new(), &mut found);
        found
    }

    pub(super) fn at_mut(&mut self, path: &[String]) -> Option<&mut Self> {
        let Some((key, rest)) = path.split_first() else {
            return Some(self);
        };
        match &mut self.value {
            Value::Table(table) => table.get_mut(key)?.at_mut(rest),
            Value::Array(nodes) => nodes.get_mut(key.parse::<usize>().ok()?)?.at_mut(rest),
            _ => None,
        }
    }
}

/// Parses a file; every value knows its line.
pub(super) fn parse_file(file: &str, text: &str) -> Result<Table, ConfigError> {
    let lines = Lines { file, text };
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        place: lines.place(error.span().map_or(0, |span| span.start)),
        problem: error.message().replace('\n', ", "),
    })?;
    Ok(convert_table(table.into_inner(), &|offset| {
        lines.place(offset)
    }))
}

/// Reads `text` as TOML's notation of something that is not a string.
pub(super) fn parse_literal(place: &Place, text: &str) -> Option<Node> {
    let value = DeValue::parse(text).ok()?.into_inner();
    let node = convert(value, place.clone(), &|_| place.clone());
    (!matches!(node.value, Value::String(_))).then_some(node)
}

struct Lines<'a> {
    file: &'a str,
    text: &'a str,
}

impl Lines<'_> {
    fn place(&self, offset: usize) -> Place {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Place::Line(self.file.to_owned(), line)
    }
}

fn convert_table(table: DeTable<'_>, place: &impl Fn(usize) -> Place) -> Table {
    let mut entries: Vec<(usize, String, Node)> = table
        .into_iter()
        .map(|(key, value)| {
            // The key's line, not the value's: a table's value begins anywhere.
            let offset = key.span().start;
            let node = convert(value.into_inner(), place(offset), place);
            (offset, key.into_inner().into_owned(), node)
        })
        .collect();
    // In the file's order, so that the first fault is the one that is told.
    entries.sort_by_key(|(offset, ..)| *offset);
    let entries = entries
        .into_iter()
        .map(|(_, key, node)| (key, node))
        .collect();
    Table { entries }
}

fn convert(value: DeValue<'_>, at: Place, place: &impl Fn(usize) -> Place) -> Node {
    let value = match value {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(number) => integer(&number),
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => Value::String(number.to_string()),
        },
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Array(values) => Value::Array(
            values
                .into_iter()
                .map(|value| {
                    let at = place(value.span().start);
                    convert(value.into_inner(), at, place)
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(convert_table(table, place)),
    };
    Node { place: at, value }
}

fn integer(number: &DeInteger<'_>) -> Value {
    match i128::from_str_radix(number.as_str(), number.radix()) {
        Ok(number) => Value::Integer(number),
        // No key takes such a number; as a string it is at least shown as it was written.
        Err(_) => Value::String(number.to_string()),
    }
}
