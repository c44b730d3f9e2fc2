//! Properties of keys, interpolation and planning, on random recipes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use evergraft::{
    digest::Digest,
    key::{Printed, StepKey},
    plan::{Plan, Selection},
    steps::Input,
};
use petgraph::graph::NodeIndex;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::check::{check, space};

thread_local! {
    static SPACE: TempDir = space();
}

fn plan(text: &str) -> Result<Plan, String> {
    SPACE.with(|space| check(space.path(), text, &[]))
}

/// The key of a step whose inputs are not known yet.
fn key(text: &str, step: &str) -> StepKey {
    let plan = plan(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let node = &plan.graph[plan.find(step).unwrap()];
    let key = StepKey::new(node, &BTreeMap::new(), &BTreeMap::new());
    assert_eq!((key.kind.as_str(), key.step_version), (node.kind.name, node.kind.version));
    key
}

/// A field of `train`, by its dotted path: a number, and ways to write it and one other.
#[derive(Debug, Clone)]
struct Field {
    path: &'static str,
    value: String,
    same: String,
    other: String,
}

/// A decimal fraction of some digits: plain, and with an exponent.
fn fraction(path: &'static str, top: u32) -> impl Strategy<Value = Field> {
    (1..top).prop_map(move |thousandths| Field {
        path,
        value: format!("0.{thousandths:03}"),
        same: format!("{thousandths}.0e-3"),
        other: format!("0.{:03}", thousandths % (top - 1) + 1),
    })
}

/// A whole number; quoted zeros and signs would be other types.
fn whole(path: &'static str) -> impl Strategy<Value = Field> {
    (1_u32..100).prop_map(move |number| Field {
        path,
        value: number.to_string(),
        same: format!("0x{number:x}"),
        other: (number % 99 + 1).to_string(),
    })
}

fn fields() -> impl Strategy<Value = Vec<Field>> {
    let all = (
        fraction("optimizer.learning_rate", 900),
        fraction("adapter.lora_dropout", 900),
        fraction("trans_peft.pc", 900),
        fraction("trans_peft.pi", 900),
        fraction("optimizer.weight_decay", 900),
        whole("optimizer.max_steps"),
        whole("adapter.r"),
        whole("optimizer.per_device_train_batch_size"),
        whole("seed"),
    );
    all.prop_map(|(a, b, c, d, e, f, g, h, i)| vec![a, b, c, d, e, f, g, h, i])
}

/// A `train` step with these fields in this order.
fn train(fields: &[(&str, &str)]) -> String {
    let mut text = "version: 1\nsteps:\n  base: { uses: base, with: { source: old } }\n  data: { uses: dataset, with: { source: data/train.json, format: alpaca } }\n  tokens: { uses: tokenize, with: { base: \"${{ steps.base }}\", dataset: \"${{ steps.data }}\" } }\n  train:\n    uses: train\n    with:\n".to_owned();
    let mut nested: Vec<(&str, Vec<String>)> = Vec::new();
    for (path, value) in fields {
        let (group, line) = match path.split_once('.') {
            Some((group, name)) => (group, format!("        {name}: {value}\n")),
            None => (*path, format!("      {path}: {value}\n")),
        };
        match nested.iter_mut().find(|(name, _)| *name == group) {
            Some((_, lines)) => lines.push(line),
            None => nested.push((group, vec![line])),
        }
    }
    for (group, lines) in nested {
        if !lines[0].starts_with(&format!("      {group}:")) {
            text += &format!("      {group}:\n");
        }
        text.extend(lines);
    }
    text + "      base: \"${{ steps.base }}\"\n      tokens: \"${{ steps.tokens }}\"\n"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// The order of the fields and the form of the numbers do not count.
    #[test]
    fn what_means_the_same_has_the_same_key(
        (fields, shuffled) in fields().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
    ) {
        let as_written: Vec<_> = fields.iter().map(|field| (field.path, field.value.as_str())).collect();
        let otherwise: Vec<_> = shuffled.iter().map(|field| (field.path, field.same.as_str())).collect();
        prop_assert_eq!(key(&train(&as_written), "train"), key(&train(&otherwise), "train"));
        prop_assert_eq!(
            key(&train(&as_written), "train").digest(),
            key(&train(&otherwise), "train").digest()
        );
    }

    /// Every single field counts, and the difference names it.
    #[test]
    fn what_means_another_thing_has_another_key(fields in fields(), at in 0_usize..9) {
        let with = |changed: Option<usize>| -> StepKey {
            let values = fields.iter().enumerate().map(|(index, field)| {
                (field.path, if Some(index) == changed { field.other.as_str() } else { field.value.as_str() })
            });
            key(&train(&values.collect::<Vec<_>>()), "train")
        };
        let (before, now) = (with(None), with(Some(at)));
        prop_assert_ne!(before.digest(), now.digest());
        let names: Vec<String> = now.differences(&before).into_iter().map(|one| one.field).collect();
        prop_assert_eq!(names, [format!("params.{}", fields[at].path)]);
    }

    /// Any text of any script: however YAML writes it, it is itself; and any two that differ have two keys, also
    /// those that look alike.
    #[test]
    fn texts_count_byte_by_byte(text in "[^$\\p{Cc}\\s][^$\\p{Cc}\u{fffe}\u{ffff}\u{feff}]{0,20}", more in "[a-zé\u{301}]") {
        let step = |text: &str| format!("version: 1\nsteps:\n  a: {{ uses: command, with: {{ run: {text}, outputs: [x] }} }}\n");
        let plain = json!(text).to_string();
        let escaped: String = text.chars().map(|char| format!("\\U{:08x}", u32::from(char))).collect();
        let one = key(&step(&plain), "a");
        prop_assert_eq!(&one.params["run"], &json!(text));
        prop_assert_eq!(one.digest(), key(&step(&format!("\"{escaped}\"")), "a").digest());
        prop_assert_ne!(one.digest(), key(&step(&json!(format!("{text}{more}")).to_string()), "a").digest());
    }

    /// A key that is written and read is the same key: what is stored beside a result is its preimage.
    #[test]
    fn a_stored_key_is_the_key(params in values(), version in any::<u32>(), kind in "[a-z]{1,8}") {
        let key = StepKey { format: 1, kind, step_version: version, params, printed: Vec::new() };
        let stored = serde_json::to_string_pretty(&key).unwrap();
        let read: StepKey = serde_json::from_str(&stored).unwrap();
        prop_assert_eq!(read.digest(), key.digest());
        prop_assert!(read.differences(&key).is_empty());
        // Each field of the struct counts.
        let printed = Printed { node: "a".to_owned(), key: key.digest(), artifact: Digest::of_bytes(b"") };
        let others = [
            StepKey { format: 2, ..key.clone() },
            StepKey { kind: format!("{}x", key.kind), ..key.clone() },
            StepKey { step_version: key.step_version.wrapping_add(1), ..key.clone() },
            StepKey { params: json!([key.params]), ..key.clone() },
            StepKey { printed: vec![printed], ..key.clone() },
        ];
        let digests: BTreeSet<Digest> = others.iter().chain([&key]).map(StepKey::digest).collect();
        prop_assert_eq!(digests.len(), 6);
        prop_assert!(others.iter().all(|other| other.differences(&key).len() == 1));
    }

    /// An expression that stands alone keeps its value's type; within a text it is that value's text.
    #[test]
    fn a_parameter_is_as_good_as_its_value(number in any::<i32>(), text in "[a-z \u{e9}'\"\\\\{}#:]{0,12}", flag: bool) {
        let step = |params: &str, env: &str| key(&format!(
            "version: 1\nparams: {{ {params} }}\nsteps:\n  a: {{ uses: command, with: {{ run: x, outputs: [x], env: {{ E: {env} }} }} }}\n"
        ), "a").digest();
        let quoted = json!(text).to_string();
        prop_assert_eq!(step("", &quoted), step(&format!("p: {quoted}"), "\"${{ params.p }}\""));
        for value in [json!(number), json!(flag), json!(text)] {
            let plain = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let within = json!(format!("<{plain}>")).to_string();
            prop_assert_eq!(step("", &within), step(&format!("p: {value}"), "\"<${{ params.p }}>\""));
        }
        let seed = number.unsigned_abs();
        let typed = format!("params: {{ s: {seed} }}\n") + &train(&[("seed", "\"${{ params.s }}\"")]);
        prop_assert_eq!(key(&typed, "train").digest(), key(&train(&[("seed", &seed.to_string())]), "train").digest());
    }

    /// Any links between seven steps: either an order that respects all of them, or a circle that is told.
    #[test]
    fn links_give_an_order_or_a_circle(links in prop::collection::btree_set((0_usize..7, 0_usize..7), 0..9)) {
        let needs = |step: usize| links.iter().filter(move |(user, _)| *user == step).map(|(_, needed)| *needed);
        let mut text = "version: 1\nsteps:\n".to_owned();
        for step in 0..7 {
            // By data and by `needs` in turn.
            let (even, odd): (Vec<usize>, Vec<usize>) = needs(step).partition(|needed| needed % 2 == 0);
            let steps: Vec<String> = even.iter().map(|n| format!("n{n}: \"${{{{ steps.s{n} }}}}\"")).collect();
            let after: Vec<String> = odd.iter().map(|n| format!("s{n}")).collect();
            text += &format!("  s{step}: {{ uses: command, needs: [{}], with: {{ run: x, outputs: [x], steps: {{ {} }} }} }}\n", after.join(", "), steps.join(", "));
        }
        // What each step needs, directly or not: grown until it grows no more.
        let mut closure: Vec<BTreeSet<usize>> = (0..7).map(|step| needs(step).collect()).collect();
        for _ in 0..7 {
            for step in 0..7 {
                let more: Vec<usize> = closure[step].iter().flat_map(|n| closure[*n].clone()).collect();
                closure[step].extend(more);
            }
        }
        let circle = (0..7).any(|step| closure[step].contains(&step));
        match plan(&text) {
            Err(error) => {
                prop_assert!(circle, "{}\n{}", error, text);
                prop_assert!(error.contains("in a circle: ") || error.contains("needs itself"), "{}", error);
            }
            Ok(plan) => {
                prop_assert!(!circle, "no circle was found in\n{}", text);
                let order = plan.order();
                let number = |index: &NodeIndex| plan.graph[*index].id[1..].parse::<usize>().unwrap();
                let place: BTreeMap<usize, usize> = order.iter().enumerate().map(|(at, index)| (number(index), at)).collect();
                prop_assert_eq!(place.len(), 7);
                for (user, needed) in &links {
                    prop_assert!(place[needed] < place[user], "s{} before s{}", user, needed);
                }
                for step in 0..7 {
                    let name = vec![format!("s{step}")];
                    let selected = |selection: Selection| -> BTreeSet<usize> {
                        plan.select(&selection).unwrap().iter().map(number).collect()
                    };
                    let until = selected(Selection { until: name.clone(), ..Selection::default() });
                    let before: BTreeSet<usize> = closure[step].iter().copied().chain([step]).collect();
                    prop_assert_eq!(&until, &before);
                    let from = selected(Selection { from: name.clone(), ..Selection::default() });
                    let after: BTreeSet<usize> = (0..7).filter(|other| *other == step || closure[*other].contains(&step)).collect();
                    prop_assert_eq!(&from, &after);
                    prop_assert_eq!(selected(Selection { only: name, ..Selection::default() }), BTreeSet::from([step]));
                }
            }
        }
    }
}

/// A report prints the names and keys of the steps before it, so those count where the bytes are the same.
#[test]
fn what_a_report_prints_is_in_its_key() {
    let plan = plan(include_str!("../fixtures/design.yaml")).unwrap();
    let report = plan.find("report").unwrap();
    let key = |change: &dyn Fn(&mut Input)| {
        let inputs = plan.upstream(report).into_iter().map(|index| {
            let node = &plan.graph[index];
            let mut input = Input {
                node: node.id.clone(),
                step: node.step.clone(),
                kind: node.kind.name.to_owned(),
                cell: node.cell.clone(),
                params: Value::Null,
                key: Digest::of_bytes(node.id.as_bytes()),
                digest: Digest::of_bytes(b"bytes"),
                path: PathBuf::new(),
                inputs: Vec::new(),
            };
            change(&mut input);
            (node.id.clone(), Arc::new(input))
        });
        StepKey::new(&plan.graph[report], &inputs.collect(), &BTreeMap::new())
    };
    let before = key(&|_| ());
    assert_eq!(before, key(&|input| input.path = PathBuf::from("elsewhere")));
    for change in [
        &(|input: &mut Input| input.key = Digest::of_bytes(b"other")) as &dyn Fn(&mut Input),
        &|input| input.node += "x",
        &|input| input.digest = Digest::of_bytes(b"other"),
    ] {
        assert_ne!(before.digest(), key(change).digest());
    }
}

/// Any JSON.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
