//! Serde's view of a [`Node`]: finds unknown keys, and adds to each fault the way to it.

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::fault::{Fault, What};
use super::tree::{Node, Table, Value};

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Table(table) => visitor.visit_map(Entries::of(table)).map_err(|mut fault| {
                fault.buffered |= fault.place.is_none();
                fault
            }),
            Value::Array(nodes) => visitor.visit_seq(Elements(nodes.iter())),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => visitor.visit_i64(number),
                (_, Ok(number)) => visitor.visit_u64(number),
                _ => visitor.visit_i128(*number),
            },
            Value::Float(number) => visitor.visit_f64(*number),
            Value::String(text) | Value::Text(text) => visitor.visit_borrowed_str(text),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Value::Table(table) = &self.value else {
            return self.deserialize_any(visitor);
        };
        let unknown = table
            .entries
            .iter()
            .find(|(key, _)| !fields.contains(&key.as_str()));
        if let Some((key, node)) = unknown {
            let what = What::UnknownKey {
                key: key.clone(),
                known: fields,
            };
            return Err(Fault::new(what).at(&node.place));
        }
        visitor.visit_map(Entries::of(table))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.value {
            Value::String(text) | Value::Text(text) => {
                let variant: StrDeserializer<'_, Fault> = text.as_str().into_deserializer();
                visitor.visit_enum(variant)
            }
            Value::Table(table) => {
                visitor.visit_enum(MapAccessDeserializer::new(Entries::of(table)))
            }
            _ => Err(Fault::invalid_type(
                self.unexpected(),
                &format!("one of: {}", variants.join(", ")).as_str(),
            )),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

impl Node {
    fn unexpected(&self) -> Unexpected<'_> {
        match &self.value {
            Value::Table(_) => Unexpected::Map,
            Value::Array(_) => Unexpected::Seq,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Integer(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => Unexpected::Signed(number),
                (_, Ok(number)) => Unexpected::Unsigned(number),
                _ => Unexpected::Other("integer"),
            },
            Value::Float(number) => Unexpected::Float(*number),
            Value::String(text) | Value::Text(text) => Unexpected::Str(text),
        }
    }
}

/// Says of a fault in `node` where it stands, if nothing deeper has said so.
///
/// Serde copies the contents of an internally tagged enum before it knows their types. The faults that it then finds in its
/// copy have no place, but tell enough to find the one key that they can be about.
pub(super) fn locate(fault: Fault, node: &Node) -> Fault {
    match &node.value {
        Value::Table(table) if fault.place.is_none() => find_again(table, fault),
        _ => fault,
    }
    .at(&node.place)
}

fn find_again(table: &Table, fault: Fault) -> Fault {
    let about = |key: &str, node: &Node| match &*fault.what {
        What::UnknownKey { key: unknown, .. } => key == unknown,
        What::WrongType { found, .. } => {
            !matches!(node.value, Value::Table(_)) && node.unexpected().to_string() == *found
        }
        _ => false,
    };
    let mut found = Vec::new();
    search(table, &about, &mut Vec::new(), &mut found);
    let [(path, node)] = found.as_slice() else {
        return fault;
    };
    // The path of an unknown key ends at its table: the key is part of the fault.
    let inner = match &*fault.what {
        What::UnknownKey { .. } => &path[..path.len() - 1],
        _ => path.as_slice(),
    };
    let fault = fault.at(&node.place);
    inner
        .iter()
        .rev()
        .fold(fault, |fault, key| fault.within(key))
}

fn search<'a>(
    table: &'a Table,
    about: &impl Fn(&str, &Node) -> bool,
    path: &mut Vec<&'a str>,
    found: &mut Vec<(Vec<&'a str>, &'a Node)>,
) {
    for (key, node) in &table.entries {
        path.push(key);
        if about(key, node) {
            found.push((path.clone(), node));
        }
        if let Value::Table(table) = &node.value {
            search(table, about, path, found);
        }
        path.pop();
    }
}

struct Entries<'de> {
    rest: std::slice::Iter<'de, (String, Node)>,
    current: Option<&'de (String, Node)>,
}

impl<'de> Entries<'de> {
    fn of(table: &'de Table) -> Self {
        Self {
            rest: table.entries.iter(),
            current: None,
        }
    }
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        self.current = self.rest.next();
        match self.current {
            Some((key, _)) => {
                let key: StrDeserializer<'_, Fault> = key.as_str().into_deserializer();
                seed.deserialize(key).map(Some)
            }
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        match self.current {
            Some((key, node)) => seed
                .deserialize(node)
                .map_err(|fault| locate(fault, node).within(key)),
            None => Err(Fault::custom("a value was asked for before its key")),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

struct Elements<'de>(std::slice::Iter<'de, Node>);

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        match self.0.next() {
            Some(node) => seed
                .deserialize(node)
                .map(Some)
                .map_err(|fault| locate(fault, node)),
            None => Ok(None),
        }
    }
}
