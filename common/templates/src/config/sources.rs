//! Which sources there are, and when one takes the place of another.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};

use super::{SourceConfig, within};
use crate::Error;

/// One source, or several in the order of preference; never none.
#[derive(Debug, Clone, PartialEq)]
pub struct Sources(Vec<SourceConfig>);

/// More than anybody needs, and few enough to give every block to all.
const MOST_SOURCES: usize = 8;

impl Sources {
    /// In the order of preference.
    pub fn iter(&self) -> impl Iterator<Item = &SourceConfig> {
        self.0.iter()
    }

    /// Checks the values without any I/O.
    pub fn validate(&self) -> Result<(), Error> {
        let several = match self.0.as_slice() {
            [one] => return one.validate(),
            several => several,
        };
        let wrong = |problem: String| Error::Config {
            key: "template",
            problem,
        };
        if !(1..=MOST_SOURCES).contains(&several.len()) {
            return Err(wrong(format!("1 to {MOST_SOURCES} sources are possible")));
        }
        for (number, source) in (1..).zip(several) {
            if let SourceConfig::Embedded(_) = source {
                let problem = "the embedded chain is another for each process, so it cannot stand in for any other source";
                return Err(wrong(problem.to_owned()));
            }
            source
                .validate()
                .map_err(|error| wrong(format!("source {number}: {error}")))?;
        }
        Ok(())
    }
}

impl Default for Sources {
    fn default() -> Self {
        SourceConfig::default().into()
    }
}

impl From<SourceConfig> for Sources {
    fn from(source: SourceConfig) -> Self {
        Self(vec![source])
    }
}

impl From<Vec<SourceConfig>> for Sources {
    fn from(sources: Vec<SourceConfig>) -> Self {
        Self(sources)
    }
}

/// A table is one source, a list of tables are several.
impl<'de> Deserialize<'de> for Sources {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrSeveral;
        impl<'de> Visitor<'de> for OneOrSeveral {
            type Value = Sources;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table, or a list of tables")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Sources, A::Error> {
                SourceConfig::deserialize(MapAccessDeserializer::new(map)).map(Sources::from)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Sources, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(sequence)).map(Sources)
            }
        }
        deserializer.deserialize_any(OneOrSeveral)
    }
}

impl Serialize for Sources {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

/// When another of several sources takes the place of the one in use.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct FailoverConfig {
    /// How long the source in use may give no answer, or be behind another, before it is left.
    pub after_seconds: u32,
    /// How long a source that is preferred has to be good again before it is returned to.
    pub return_after_seconds: u32,
}

impl Default for FailoverConfig {
    fn default() -> Self {
        Self {
            after_seconds: 15,
            return_after_seconds: 60,
        }
    }
}

impl FailoverConfig {
    /// Checks the values without any I/O.
    pub fn validate(&self) -> Result<(), Error> {
        within("after_seconds", self.after_seconds.into(), 1, 3600)?;
        within(
            "return_after_seconds",
            self.return_after_seconds.into(),
            1,
            86_400,
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn a_table_is_one_source_and_a_list_are_several() {
        let one = json!({"source": "bitcoin-rpc", "url": "http://a/"});
        let sources: Sources = from_value(one.clone()).unwrap();
        assert_eq!(sources.iter().count(), 1);
        assert!(to_value(&sources).unwrap().is_object());
        let sources: Sources = from_value(json!([one, {"source": "sv2"}])).unwrap();
        assert_eq!(sources.iter().count(), 2);
        sources.validate().unwrap();
        let again: Sources = from_value(to_value(&sources).unwrap()).unwrap();
        assert_eq!(again, sources);
        let error = from_value::<Sources>(json!([one, {"source": "sv2", "adress": "b:1"}]));
        assert!(error.unwrap_err().to_string().contains("adress"));
    }

    #[test]
    fn what_is_wrong_with_one_of_several_names_its_place() {
        let refused = |value| {
            from_value::<Sources>(value)
                .unwrap()
                .validate()
                .unwrap_err()
                .to_string()
        };
        let good = json!({"source": "sv2"});
        let reason = refused(json!([good, {"source": "sv2", "network": "mars"}]));
        assert!(reason.contains("source 2: network: mars"), "{reason}");
        let reason = refused(json!([good, {"source": "embedded"}]));
        assert!(reason.contains("embedded chain"), "{reason}");
        for none_or_many in [json!([]), json!(vec![good; 9])] {
            let reason = refused(none_or_many);
            assert!(reason.contains("1 to 8 sources"), "{reason}");
        }
    }
}
