//! `resources:`, `timeout:` and `retries:` of a step.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    diagnostic::{Diagnostic, suggest},
    recipe::{
        source::Sources,
        tree::{Data, Node},
    },
    units,
};

/// What a step asks of the machine; nothing asked is nothing reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Resources {
    /// Processor cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Memory in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem: Option<u64>,
    /// Graphics cards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<u32>,
}

const RESOURCES: [&str; 3] = ["cpus", "mem", "gpu"];
const MAX_RETRIES: u64 = 100;

/// Fills `into` from a mapping; keys that are not given keep their value.
pub(super) fn resources(sources: &Sources, node: &Node, into: &mut Resources, out: &mut Vec<Diagnostic>) {
    let entries = match &node.data {
        Data::Null => return,
        Data::Map(entries) => entries,
        _ => {
            let message = format!("`resources` must be a mapping, found {}", node.describe());
            out.push(sources.at(node.span, message).hint("for example { cpus: 4, mem: 16G, gpu: 1 }"));
            return;
        }
    };
    for entry in entries {
        let value = &entry.value;
        let count = || whole(value).and_then(|number| u32::try_from(number).ok());
        let done = match entry.key.as_str() {
            "cpus" => count().filter(|cpus| *cpus > 0).map(|cpus| into.cpus = Some(cpus)),
            "gpu" => count().map(|gpu| into.gpu = Some(gpu)),
            "mem" => memory(value).map(|mem| into.mem = Some(mem)),
            key => {
                let message = format!("unknown key `{key}` in `resources`");
                out.push(sources.at(entry.key_span, message).maybe_hint(suggest(key, RESOURCES)));
                continue;
            }
        };
        if done.is_none() {
            let wanted = match entry.key.as_str() {
                "cpus" => "a whole number from 1",
                "gpu" => "a whole number from 0",
                _ => "a size such as `16G` or a number of bytes",
            };
            let message = format!("`{}` must be {wanted}, found {}", entry.key, value.describe());
            out.push(sources.at(value.span, message));
        }
    }
}

/// A number of seconds, or `90s`, `30m`, `2h`, `1d`.
pub(super) fn timeout(sources: &Sources, node: &Node, out: &mut Vec<Diagnostic>) -> Option<Duration> {
    let seconds = match &node.data {
        Data::Null => return None,
        Data::Number(number) => number.as_f64(),
        Data::Text(text) => units::seconds(text),
        _ => None,
    };
    // A hundred years: beyond it, `Duration` arithmetic of the runner could overflow.
    let found = seconds.filter(|seconds| *seconds > 0.0 && *seconds < 3.2e9).map(Duration::from_secs_f64);
    if found.is_none() {
        let message = format!("`timeout` must be a time above 0, found {}", node.describe());
        out.push(sources.at(node.span, message).hint("seconds, or a text such as `90s`, `30m`, `2h`"));
    }
    found
}

/// A small whole number.
pub(super) fn retries(sources: &Sources, node: &Node, out: &mut Vec<Diagnostic>) -> u32 {
    match whole(node) {
        Some(number) if number <= MAX_RETRIES => number as u32,
        _ if matches!(node.data, Data::Null) => 0,
        _ => {
            let message = format!(
                "`retries` must be a whole number from 0 to {MAX_RETRIES}, found {}",
                node.describe()
            );
            out.push(sources.at(node.span, message));
            0
        }
    }
}

fn whole(node: &Node) -> Option<u64> {
    match &node.data {
        Data::Number(number) => number.as_u64(),
        _ => None,
    }
}

fn memory(node: &Node) -> Option<u64> {
    match &node.data {
        Data::Number(number) => number.as_u64(),
        Data::Text(text) => units::bytes(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::source::Span;

    fn text(text: &str) -> Node {
        Node::new(Data::Text(text.to_owned()), Span::default())
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(memory(&text("16G")), Some(16 << 30));
        assert_eq!(memory(&text("1.5 MiB")), Some(3 << 19));
        for wrong in ["16", "G", "-1G", "infG", "1e300G", "nanG"] {
            assert_eq!(memory(&text(wrong)), None, "{wrong}");
        }
        let mut sources = Sources::default();
        sources.add("r".to_owned(), "/".into(), String::new());
        let mut out = Vec::new();
        assert_eq!(timeout(&sources, &text("1.5h"), &mut out), Some(Duration::from_secs(5400)));
        assert!(out.is_empty());
        assert_eq!(timeout(&sources, &text("soon"), &mut out), None);
        assert_eq!(timeout(&sources, &text("1e300d"), &mut out), None);
        assert_eq!(out.len(), 2);
    }
}
