//! The fields of a `config.json`, read with messages that name them.

use anyhow::Context as _;
use serde_json::{Map, Value};

use super::config::token_ids_from_json;
use crate::error::excerpt;

/// The fields of a `config.json`, read with messages that name them. `null` is absent.
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, name: &str) -> anyhow::Result<Option<&'a str>> {
        self.get(name)
            .map(|value| {
                value.as_str().with_context(|| {
                    format!("`{name}` must be a text in the model config, found `{}`", excerpt(value))
                })
            })
            .transpose()
    }

    pub(super) fn flag(&self, name: &str) -> anyhow::Result<Option<bool>> {
        self.get(name)
            .map(|value| {
                value.as_bool().with_context(|| {
                    format!("`{name}` must be true or false in the model config, found `{}`", excerpt(value))
                })
            })
            .transpose()
    }

    pub(super) fn number(&self, name: &str) -> anyhow::Result<Option<f64>> {
        self.get(name)
            .map(|value| {
                value.as_f64().with_context(|| {
                    format!("`{name}` must be a number in the model config, found `{}`", excerpt(value))
                })
            })
            .transpose()
    }

    pub(super) fn optional_size(&self, name: &str, max: usize) -> anyhow::Result<Option<usize>> {
        self.whole(name, 1, max)
    }

    /// A number that may be 0.
    pub(super) fn optional_count(&self, name: &str, max: usize) -> anyhow::Result<Option<usize>> {
        self.whole(name, 0, max)
    }

    fn whole(&self, name: &str, min: usize, max: usize) -> anyhow::Result<Option<usize>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        size.filter(|size| (min..=max).contains(size)).map(Some).with_context(|| {
            format!(
                "`{name}` must be a whole number between {min} and {max} in the model config, found `{}`",
                excerpt(value)
            )
        })
    }

    pub(super) fn size(&self, name: &str, max: usize) -> anyhow::Result<usize> {
        self.optional_size(name, max)?.with_context(|| format!("the model config has no `{name}`"))
    }

    pub(super) fn token_ids(&self, name: &str) -> anyhow::Result<Vec<u32>> {
        token_ids_from_json(name, self.get(name))
    }
}
