//! A role's configuration: command line over environment over file over defaults.
//!
//! The environment's names are `HASHPOOL_<ROLE>__<KEY>`, with `__` between the keys of nested tables, in capitals; the command line's are
//! the keys with dots (`limits.connections`). Values given there are taken for what the key holds: a string as it is,
//! anything else in TOML's notation. Tables of a list that a file gives are counted from 0 (`template.1.url`). A key that the role does not know is an error wherever it stands.

mod error;
mod fault;
mod reader;
mod redact;
mod tree;

use std::ffi::OsString;
use std::path::Path;

use serde::de::DeserializeOwned;

pub use self::error::{ConfigError, Place};
pub use self::redact::{is_secret, to_redacted_toml, without_password};

use self::fault::{Fault, What};
use self::tree::{Node, Table, Value};

/// Reads the configuration of `role` from `file`, this process's environment and `overrides` (keys with dots, and values).
///
/// What none of them gives is `T`'s own default, so `T` and the tables in it carry `#[serde(default)]`.
///
/// # Errors
/// [`ConfigError`]: what is wrong and in which file and line, variable or argument it stands.
pub fn load<T: DeserializeOwned>(
    role: &str,
    file: Option<&Path>,
    overrides: &[(String, String)],
) -> Result<T, ConfigError> {
    load_with_short_names(role, file, &[], overrides)
}

/// The same for a role that has short names of its own in the environment: each with its key (with dots) and value. They are
/// over the file and under the variables of [`load`].
///
/// # Errors
/// As [`load`].
pub fn load_with_short_names<T: DeserializeOwned>(
    role: &str,
    file: Option<&Path>,
    short_names: &[(&str, &str, String)],
    overrides: &[(String, String)],
) -> Result<T, ConfigError> {
    let mut layers = Layers::new(role);
    if let Some(file) = file {
        layers.file(file)?;
    }
    layers.short_names(short_names)?;
    layers.environment(std::env::vars_os())?;
    layers.overrides(overrides)?;
    layers.load()
}

/// Refuses variables for roles that do not exist (`HASHPOOL_POLL__...`), which no role's own configuration would notice.
///
/// # Errors
/// [`ConfigError::Variable`] naming the first such variable.
pub fn check_environment(
    roles: &[&str],
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(), ConfigError> {
    for (name, _) in environment {
        let Some(name) = name.to_str() else { continue };
        let Some((role, _)) = name
            .strip_prefix("HASHPOOL_")
            .and_then(|rest| rest.split_once("__"))
        else {
            continue;
        };
        let prefixes: Vec<String> = roles.iter().map(|role| prefix_name(role)).collect();
        if !prefixes.iter().any(|known| known == role) {
            return Err(ConfigError::Variable {
                name: name.to_owned(),
                problem: format!(
                    "there is no role {role}; the roles are {}",
                    prefixes.join(", ")
                ),
            });
        }
    }
    Ok(())
}

/// Layers of configuration, each over the ones given before it. [`load`] is the usual order.
#[derive(Debug)]
pub struct Layers {
    role: String,
    file: Option<String>,
    layers: Vec<Table>,
}

impl Layers {
    /// No layers yet: `T`'s defaults.
    #[must_use]
    pub fn new(role: &str) -> Self {
        Self {
            role: role.to_owned(),
            file: None,
            layers: Vec::new(),
        }
    }

    /// Puts the values of a TOML file over what there is.
    ///
    /// # Errors
    /// [`ConfigError::Read`] and [`ConfigError::Syntax`].
    pub fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            file: name.clone(),
            source,
        })?;
        self.layers.push(tree::parse_file(&name, &text)?);
        self.file = Some(name);
        Ok(())
    }

    /// Puts the variables of this role over what there is.
    ///
    /// # Errors
    /// [`ConfigError::Variable`] for one that is misspelt or not UTF-8.
    pub fn environment(
        &mut self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), ConfigError> {
        let role = format!("HASHPOOL_{}", prefix_name(&self.role));
        let mut variables = Vec::new();
        for (name, value) in environment {
            let Some(name) = name.to_str() else { continue };
            let Some(rest) = name.strip_prefix(&role).and_then(|r| r.strip_prefix('_')) else {
                continue;
            };
            let Some(keys) = rest.strip_prefix('_') else {
                // `HASHPOOL_POOL_STATS__X` is the role pool-stats; `HASHPOOL_POOL_LISTEN_ADDRESS` lacks an underscore.
                if rest.contains("__") {
                    continue;
                }
                return Err(ConfigError::Variable {
                    name: name.to_owned(),
                    problem: format!("two underscores follow the role: {role}__{rest}"),
                });
            };
            let value = value.into_string().map_err(|_| ConfigError::Variable {
                name: name.to_owned(),
                problem: "its value is not UTF-8".into(),
            })?;
            variables.push((name.to_owned(), keys.to_lowercase(), value));
        }
        // The environment has no order of its own; the first fault that is told should not change from run to run.
        variables.sort();
        let mut layer = Table::default();
        for (name, keys, value) in variables {
            let path: Vec<&str> = keys.split("__").collect();
            layer
                .set(&path, Node::text(Place::Variable(name.clone()), value))
                .map_err(|problem| ConfigError::Variable { name, problem })?;
        }
        self.layers.push(layer);
        Ok(())
    }

    /// Puts variables with names of the role's own over what there is: the name, the key (with dots), the value.
    ///
    /// # Errors
    /// [`ConfigError::Variable`] when two of them exclude each other.
    pub fn short_names(&mut self, names: &[(&str, &str, String)]) -> Result<(), ConfigError> {
        let mut layer = Table::default();
        for (name, key, value) in names {
            let path: Vec<&str> = key.split('.').collect();
            let place = Place::Variable((*name).to_owned());
            layer
                .set(&path, Node::text(place, value.clone()))
                .map_err(|problem| ConfigError::Variable {
                    name: (*name).to_owned(),
                    problem,
                })?;
        }
        self.layers.push(layer);
        Ok(())
    }

    /// Puts keys (with dots) and values over what there is.
    ///
    /// # Errors
    /// [`ConfigError::Argument`] when two of them exclude each other.
    pub fn overrides<K: AsRef<str>, V: AsRef<str>>(
        &mut self,
        overrides: &[(K, V)],
    ) -> Result<(), ConfigError> {
        let mut layer = Table::default();
        for (key, value) in overrides {
            let (key, value) = (key.as_ref(), value.as_ref());
            let path: Vec<&str> = key.split('.').collect();
            layer
                .set(
                    &path,
                    Node::text(Place::Argument(key.to_owned()), value.to_owned()),
                )
                .map_err(|problem| ConfigError::Argument {
                    key: key.to_owned(),
                    problem,
                })?;
        }
        self.layers.push(layer);
        Ok(())
    }

    /// Reads `T` from all layers.
    ///
    /// # Errors
    /// [`ConfigError`] for an unknown or a missing key and for a value that does not fit.
    pub fn load<T: DeserializeOwned>(self) -> Result<T, ConfigError> {
        let mut root = Node::root();
        for layer in self.layers {
            merge::<T>(&mut root, layer);
        }
        settle::<T>(&mut root);
        read::<T>(&root).map_err(|fault| error::explain(fault, self.file.as_deref()))
    }
}

fn prefix_name(role: &str) -> String {
    role.to_uppercase().replace('-', "_")
}

fn read<T: DeserializeOwned>(root: &Node) -> Result<T, Fault> {
    T::deserialize(root).map_err(|fault| match fault.place {
        None => reader::locate(fault, root),
        Some(_) => fault,
    })
}

/// Puts `layer` over `root`; a list is changed where the keys name places in it, and replaced otherwise. Where a table is an enum with a tag and `layer` names another variant, the keys of the
/// variant before it go: they mean nothing to the new one.
fn merge<T: DeserializeOwned>(root: &mut Node, layer: Table) {
    fn merge_at<T: DeserializeOwned>(below: &mut Node, over: Node, path: &mut Vec<String>) {
        if let (Value::Array(nodes), Value::Table(over_table)) = (&mut below.value, &over.value)
            && let Some(places) = over_table.places(nodes.len())
        {
            for (place, node) in places {
                path.push(place.to_string());
                merge_at::<T>(&mut nodes[place], node.clone(), path);
                path.pop();
            }
            return;
        }
        let (Value::Table(table), Value::Table(over_table)) = (&mut below.value, &over.value)
        else {
            *below = over;
            return;
        };
        if let Some(tag) = tag_at::<T>(path) {
            let names_another = match (table.get(tag), over_table.get(tag)) {
                (Some(now), Some(then)) => now.value.as_str() != then.value.as_str(),
                _ => false,
            };
            if names_another {
                *below = over;
                return;
            }
        }
        if let Value::Table(over_table) = over.value {
            for (key, node) in over_table.entries {
                path.push(key.clone());
                match table.get_mut(&key) {
                    Some(present) => merge_at::<T>(present, node, path),
                    None => table.entries.push((key, node)),
                }
                path.pop();
            }
        }
    }
    merge_at::<T>(root, Node::table(layer), &mut Vec::new());
}

/// The tag's name if `T` has an internally tagged enum at `path`: serde asks an empty table for it.
fn tag_at<T: DeserializeOwned>(path: &[String]) -> Option<&'static str> {
    let mut probe = Node::root();
    if let Value::Table(table) = &mut probe.value {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        if !path.is_empty() {
            table.set(&path, Node::root()).ok()?;
        }
    }
    let fault = read::<T>(&probe).err()?;
    match *fault.what {
        What::MissingKey(tag) if fault.buffered && fault.path().eq(path) => Some(tag),
        _ => None,
    }
}

/// Decides for each value of the environment and the command line whether its key takes a string or what the value says
/// in TOML's notation. Serde's derived code hides the types behind enum tags, so the question is put to `T` itself: it
/// is shown a string there, and either refuses its type or not. In the order in which `T` reads, so that no value that is
/// still undecided hides the one in question.
fn settle<T: DeserializeOwned>(root: &mut Node) {
    const PROBE: &str = "\u{0}probe";
    for path in root.text_paths() {
        let Some(node) = root.at_mut(&path) else {
            continue;
        };
        let Value::Text(text) = node.value.clone() else {
            continue;
        };
        let place = node.place.clone();
        let Some(literal) = tree::parse_literal(&place, &text) else {
            node.value = Value::String(text);
            continue;
        };
        let mut probe = root.clone();
        if let Some(node) = probe.at_mut(&path) {
            node.value = Value::String(PROBE.into());
        }
        let refused = read::<T>(&probe).err().map(|fault| *fault.what);
        let takes_string = !matches!(
            refused,
            Some(What::WrongType { found_string: Some(found), .. }) if found == PROBE
        );
        if let Some(node) = root.at_mut(&path) {
            node.value = if takes_string {
                Value::String(text)
            } else {
                literal.value
            };
        }
    }
}

#[cfg(test)]
mod tests;
