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

impl std::str::FromStr for Resources {
    type Err = String;

    /// As on the command line: `gpu=2,mem=40G,cpus=8`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut out = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| format!("`{part}` has no `=`"))?;
            let count = || value.trim().parse::<u32>().ok();
            match name.trim() {
                "cpus" => {
                    out.cpus = Some(count().filter(|cpus| *cpus > 0).ok_or("`cpus` is a number from 1")?)
                }
                "gpu" => {
                    out.gpu = Some(count().filter(|gpu| *gpu <= 1024).ok_or("`gpu` is a number from 0")?)
                }
                "mem" => out.mem = Some(units::bytes(value).ok_or("`mem` is a size such as `16G`")?),
                name => return Err(format!("`{name}` is none of cpus, mem and gpu")),
            }
        }
        Ok(out)
    }
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
    fn the_command_line_names_what_there_is() {
        let all = Resources { cpus: Some(8), mem: Some(40 << 30), gpu: Some(2) };
        assert_eq!("gpu=2, mem=40G,cpus=8".parse(), Ok(all));
        assert_eq!("gpu=0".parse(), Ok(Resources { gpu: Some(0), ..Resources::default() }));
        for wrong in ["gpu", "gpu=-1", "cpus=0", "mem=much", "disk=1G"] {
            assert!(wrong.parse::<Resources>().is_err(), "{wrong}");
        }
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
