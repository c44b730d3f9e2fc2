//! Imports point one way: `commands -> exec -> steps ->
//! {train, eval, report, data, hub} -> {peft, model}`, and only `commands` and `progress` print.

use std::path::Path;

/// A module, and those of this crate that it must not know.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "model",
        &[
            "recipe", "plan", "cache", "exec", "steps", "commands", "cli", "report", "train", "eval", "peft",
            "key",
        ],
    ),
    (
        "peft",
        &["recipe", "plan", "cache", "exec", "steps", "commands", "cli", "report", "train", "eval", "key"],
    ),
    ("train", &["recipe", "plan", "cache", "exec", "steps", "commands", "cli", "report", "eval", "key"]),
    ("eval", &["recipe", "plan", "cache", "exec", "steps", "commands", "cli", "report", "train", "key"]),
    (
        "data",
        &["recipe", "plan", "cache", "exec", "steps", "commands", "cli", "report", "train", "eval", "key"],
    ),
    (
        "params",
        &[
            "recipe", "plan", "cache", "exec", "steps", "commands", "cli", "report", "train", "eval",
            "model", "peft", "key",
        ],
    ),
    (
        "recipe",
        &[
            "plan", "cache", "exec", "steps", "commands", "cli", "report", "train", "eval", "model", "peft",
            "key",
        ],
    ),
    (
        "plan",
        &["cache", "exec", "steps", "commands", "cli", "report", "train", "eval", "model", "peft", "key"],
    ),
    (
        "hub",
        &[
            "recipe", "plan", "cache", "exec", "steps", "commands", "cli", "report", "train", "eval",
            "model", "peft", "key", "data",
        ],
    ),
    ("report", &["recipe", "plan", "cache", "exec", "commands", "cli", "train", "model", "peft", "key"]),
    (
        "progress",
        &[
            "recipe", "plan", "cache", "exec", "steps", "commands", "cli", "report", "train", "eval",
            "model", "peft", "key",
        ],
    ),
    (
        "device",
        &[
            "recipe", "plan", "cache", "exec", "steps", "commands", "cli", "report", "train", "eval",
            "model", "peft", "key", "data", "hub", "progress",
        ],
    ),
    ("key", &["recipe", "cache", "exec", "commands", "cli", "report", "train", "eval", "model", "peft"]),
    (
        "cancel",
        &[
            "recipe", "plan", "cache", "exec", "steps", "commands", "cli", "report", "train", "eval",
            "model", "peft", "key", "params", "progress",
        ],
    ),
    ("steps", &["recipe", "plan", "cache", "exec", "commands", "cli", "key"]),
    (
        "cache",
        &["recipe", "plan", "exec", "commands", "cli", "report", "train", "eval", "model", "peft", "steps"],
    ),
    ("exec", &["recipe", "commands", "cli", "report", "train", "eval", "model", "peft"]),
    ("estimate", &["recipe", "cache", "commands", "cli", "report", "key", "hub", "progress"]),
];

/// What only `commands` may know.
const OF_COMMANDS: &[&str] = &["estimate"];

#[test]
fn imports_point_one_way() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let mut files = 0;
    for entry in walkdir::WalkDir::new(&source).into_iter().map(Result::unwrap) {
        if entry.path().extension().is_none_or(|ending| ending != "rs") {
            continue;
        }
        files += 1;
        let relative = entry.path().strip_prefix(&source).unwrap();
        let module = relative.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let code: String =
            text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        let forbidden = FORBIDDEN.iter().find(|(name, _)| *name == module).map_or(&[][..], |(_, list)| *list);
        let of_commands = OF_COMMANDS.iter().filter(|_| module != "commands");
        for name in forbidden.iter().chain(of_commands) {
            let direct = code.contains(&format!("crate::{name}::"));
            // Inside `use crate::{...};`, names of the first level stand four spaces deep.
            let listed = code.split("use crate::{").skip(1).any(|rest| {
                let list = rest.split("};").next().unwrap_or_default();
                list.lines().any(|line| line.starts_with(&format!("    {name}::")))
                    || (!list.contains('\n')
                        && list.split(", ").any(|part| part.starts_with(&format!("{name}::"))))
            });
            if direct || listed {
                wrong.push(format!("{} uses {name}", relative.display()));
            }
        }
        let prints = ["println!(", "print!("].iter().any(|word| code.contains(word));
        if prints && module != "commands" && module != "progress" {
            wrong.push(format!("{} prints", relative.display()));
        }
    }
    assert!(files > 80, "the walk found {files} files only");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
