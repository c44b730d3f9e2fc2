//! `rank_pattern:` and `alpha_pattern:`, whose order counts.

use std::{collections::HashSet, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, Visitor},
};

/// Values by pattern, in the order in which they are written: the first pattern that fits counts.
#[derive(Debug, Clone, PartialEq)]
pub struct PatternMap<V>(Vec<(String, V)>);

impl<V> PatternMap<V> {
    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The patterns alone.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = &String> + Clone {
        self.0.iter().map(|(pattern, _)| pattern)
    }

    /// Patterns and their values.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &V)> {
        self.0.iter().map(|(pattern, value)| (pattern, value))
    }
}

impl<V> Default for PatternMap<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V: Serialize> Serialize for PatternMap<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for PatternMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PatternVisitor<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for PatternVisitor<V> {
            type Value = PatternMap<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut entries, mut seen) = (Vec::new(), HashSet::new());
                while let Some((pattern, value)) = map.next_entry::<String, V>()? {
                    if !seen.insert(pattern.clone()) {
                        return Err(A::Error::custom("a pattern is there twice"));
                    }
                    entries.push((pattern, value));
                }
                Ok(PatternMap(entries))
            }
        }
        deserializer.deserialize_map(PatternVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_survives() {
        for text in [r#"{"b":1,"a":2,"c":3}"#, r#"{"a":2,"b":1}"#, "{}"] {
            let map: PatternMap<usize> = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&map).unwrap(), text);
        }
        assert!(serde_json::from_str::<PatternMap<usize>>(r#"{"a":1,"a":2}"#).is_err());
    }
}
