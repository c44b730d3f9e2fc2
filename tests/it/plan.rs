//! Right recipes: nodes, edges, parameters.

use std::{path::Path, time::Duration};

use evergraft::{
    error::Error,
    plan::{Plan, Selection},
};
use serde_json::{Value, json};

use crate::check::{check, space};

const DESIGN: &str = include_str!("../fixtures/design.yaml");

fn plan(text: &str) -> Plan {
    planned(space().path(), text, &[])
}

fn planned(dir: &Path, text: &str, sets: &[&str]) -> Plan {
    check(dir, text, sets).unwrap_or_else(|error| panic!("{error}"))
}

fn ids(plan: &Plan) -> Vec<&str> {
    plan.order().into_iter().map(|index| plan.graph[index].id.as_str()).collect()
}

fn upstream<'p>(plan: &'p Plan, id: &str) -> Vec<&'p str> {
    let node = plan.find(id).unwrap_or_else(|| panic!("no node `{id}` in {:?}", ids(plan)));
    plan.upstream(node).into_iter().map(|index| plan.graph[index].id.as_str()).collect()
}

fn params<'p>(plan: &'p Plan, id: &str) -> &'p Value {
    &plan.graph[plan.find(id).unwrap_or_else(|| panic!("no node `{id}` in {:?}", ids(plan)))].params
}

/// Steps that need no files.
fn command(id: &str, rest: &str, with: &str) -> String {
    format!("  {id}: {{ uses: command{rest}, with: {{ run: x, outputs: [y]{with} }} }}\n")
}

#[test]
fn the_design_recipe_binds_cell_to_cell() {
    let plan = plan(DESIGN);
    for (step, cells) in [("train", 6), ("moved", 6), ("scores", 6), ("report", 1), ("old", 1)] {
        assert_eq!(plan.cells(step).count(), cells, "{step}");
    }
    assert_eq!(plan.recipe_name, "qwen2-commonsense");
    let cell = "[method=trans_peft,seed=2]";
    assert_eq!(upstream(&plan, &format!("train{cell}")), ["old", "tokens"]);
    assert_eq!(upstream(&plan, &format!("moved{cell}")), ["new".to_owned(), format!("train{cell}")]);
    assert_eq!(upstream(&plan, &format!("scores{cell}")), ["test".to_owned(), format!("moved{cell}")]);
    assert_eq!(upstream(&plan, "report").len(), 6);
    let train = params(&plan, &format!("train{cell}"));
    assert_eq!(train["trans_peft"], json!({ "pc": 0.2, "pi": 0.1, "mask": "element" }));
    assert_eq!(train["seed"], json!(2));
    assert_eq!(train["base"], json!({ "$step": "old" }));
    assert_eq!(train["device"], json!("auto"));
    let results = params(&plan, "report")["results"].as_array().unwrap();
    assert_eq!(results[0], json!({ "$step": "scores[method=lora,seed=1]" }));
    let node = &plan.graph[plan.find(&format!("scores{cell}")).unwrap()];
    assert_eq!(node.cell["seed"], json!(2));
    assert_eq!(node.cell["method"]["pc"], json!(0.2));
}

/// PEFT takes the first pattern that fits, so their order is a part of the parameters.
#[test]
fn patterns_keep_the_order_of_the_recipe() {
    for names in [["q_proj", "layers.0.self_attn.q_proj"], ["layers.0.self_attn.q_proj", "q_proj"]] {
        let adapter =
            format!("adapter: {{ alpha_pattern: {{ {}: 32, {}: 8 }}, type: lora", names[0], names[1]);
        let plan = plan(&DESIGN.replace("adapter: { type: lora", &adapter));
        let found = params(&plan, "train[method=lora,seed=1]")["adapter"]["alpha_pattern"].as_object();
        assert_eq!(found.unwrap().keys().collect::<Vec<_>>(), names);
    }
}

#[test]
fn order_is_topological_and_follows_the_recipe() {
    let text = format!(
        "version: 1\nsteps:\n{}{}{}{}",
        command("last", "", ", steps: { a: '${{ steps.b }}' }"),
        command("a", "", ""),
        command("b", ", needs: a", ""),
        command("c", "", ""),
    );
    assert_eq!(ids(&plan(&text)), ["a", "b", "last", "c"]);
}

#[test]
fn paths_start_at_the_recipes_folder() {
    let dir = space();
    let plan = planned(dir.path(), DESIGN, &[]);
    let old = &plan.graph[plan.find("old").unwrap()];
    let path = dir.path().join("old");
    assert_eq!(old.params["source"], json!(path));
    assert_eq!(old.files, [("source", path)]);
    let text = "version: 1\nsteps: { d: { uses: dataset, with: { format: text, source: [./data/train.json, data/test.json] } } }\n";
    let plan = planned(dir.path(), text, &[]);
    let paths = ["data/train.json", "data/test.json"].map(|name| dir.path().join(name));
    assert_eq!(plan.graph[plan.find("d").unwrap()].params["source"], json!(paths));
}

#[test]
fn a_lone_expression_keeps_its_type() {
    let text = format!(
        "version: 1\nparams:\n  n: 3\n  half: \"${{{{ params.n / 2 }}}}\"\n  all: \"${{{{ [params.n, true, none, {{'k': 'v'}}] }}}}\"\n  text: \"n=${{{{ params.n }}}} ${{{{ params.all }}}}\"\nsteps:\n{}",
        command("c", "", "")
    );
    let dir = space();
    let path = dir.path().join("recipe.yaml");
    std::fs::write(&path, text).unwrap();
    let recipe = evergraft::recipe::load(&path, &[]).unwrap();
    assert_eq!(
        recipe.params(),
        json!({ "n": 3, "half": 1.5, "all": [3, true, null, { "k": "v" }], "text": "n=3 [3,true,null,{\"k\":\"v\"}]" })
    );
    assert_eq!(recipe.name(), "recipe");
}

#[test]
fn set_changes_values_and_zero_is_a_value() {
    let dir = space();
    let plan = planned(
        dir.path(),
        DESIGN,
        &["params.pc=0", "params.seeds=[7]", "steps.train.with.optimizer.max_steps=5"],
    );
    let train = params(&plan, "train[method=trans_peft,seed=7]");
    assert_eq!(train["trans_peft"]["pc"], json!(0.0));
    assert_eq!(train["trans_peft"]["pi"], json!(0.1));
    assert_eq!(train["optimizer"]["max_steps"], json!(5));
    assert_eq!(plan.cells("train").count(), 2);
    let text = "version: 1\nparams: { limit: 5 }\nsteps:\n  a: { uses: command, when: \"params.limit is none\", with: { run: x, outputs: [y] } }\n  b: { uses: command, when: \"${{ params.limit == false }}\", with: { run: x, outputs: [y] } }\n";
    assert_eq!(ids(&planned(dir.path(), text, &["params.limit=null"])), ["a"]);
    assert_eq!(ids(&planned(dir.path(), text, &["params.limit=false"])), ["b"]);
    assert!(ids(&planned(dir.path(), text, &[])).is_empty());
}

#[test]
fn defaults_fill_what_a_step_does_not_say() {
    let text = format!(
        "{}\n",
        DESIGN
            .replace("dtype: f32 }", "dtype: f32, optimizer: { weight_decay: 0.5, learning_rate: 1 }, batch_size: 2, resources: { cpus: 2, mem: 1G }, timeout: 1h, retries: 1 }")
            .replace("  report: { uses: report,", "  report: { uses: report, resources: { cpus: 1 }, timeout: 90s, retries: 0,")
    );
    let plan = plan(&text);
    let train = params(&plan, "train[method=lora,seed=1]");
    assert_eq!(train["optimizer"]["weight_decay"], json!(0.5));
    assert_eq!(train["optimizer"]["learning_rate"], json!(3e-4));
    assert_eq!(params(&plan, "scores[method=lora,seed=1]")["batch_size"], json!(2));
    let old = &plan.graph[plan.find("old").unwrap()];
    assert_eq!((old.resources.cpus, old.resources.mem, old.resources.gpu), (Some(2), Some(1 << 30), None));
    assert_eq!((old.timeout, old.retries), (Some(Duration::from_secs(3600)), 1));
    let report = &plan.graph[plan.find("report").unwrap()];
    assert_eq!((report.resources.cpus, report.resources.mem), (Some(1), Some(1 << 30)));
    assert_eq!((report.timeout, report.retries), (Some(Duration::from_secs(90)), 0));
}

#[test]
fn what_when_leaves_out_takes_its_dependents_along() {
    let text = DESIGN.replace(
        "    matrix:",
        "    when: \"matrix.seed != 2 and matrix.method.name == 'lora'\"\n    matrix:",
    );
    let plan = plan(&text);
    assert_eq!(plan.cells("moved").count(), 2);
    assert_eq!(upstream(&plan, "report"), ["scores[method=lora,seed=1]", "scores[method=lora,seed=3]"]);
}

#[test]
fn lists_are_flat_and_keep_to_the_own_cell() {
    let eval = "tasks: [{ name: boolq, dataset: \"${{ steps.data }}\" }]";
    let text = format!(
        "version: 1\nsteps:\n  data: {{ uses: dataset, with: {{ source: data/train.json, format: alpaca }} }}\n  \
         m: {{ uses: base, matrix: {{ size: [old, new] }}, with: {{ source: \"${{{{ matrix.size }}}}\" }} }}\n  \
         o: {{ uses: base, with: {{ source: old }} }}\n  \
         e: {{ uses: eval, matrix: {{ limit: [1, 2] }}, with: {{ model: \"${{{{ steps.m }}}}\", limit: \"${{{{ matrix.limit }}}}\", {eval} }} }}\n  \
         bare: {{ uses: eval, with: {{ model: \"${{{{ steps.o }}}}\", {eval} }} }}\n  \
         r: {{ uses: report, matrix: {{ size: [old, new] }}, with: {{ results: [\"${{{{ steps.bare }}}}\", \"${{{{ steps.e }}}}\"] }} }}\n"
    );
    let plan = plan(&text);
    assert_eq!(plan.cells("e").count(), 4);
    let results = &params(&plan, "r[size=new]")["results"];
    assert_eq!(
        *results,
        json!([{ "$step": "bare" }, { "$step": "e[limit=1,size=new]" }, { "$step": "e[limit=2,size=new]" }])
    );
}

#[test]
fn a_step_can_be_a_matrix_value() {
    let text = "version: 1\nsteps:\n  \
        data: { uses: dataset, with: { source: data/train.json, format: alpaca } }\n  \
        m: { uses: base, matrix: { size: [old, new] }, with: { source: \"${{ matrix.size }}\" } }\n  \
        o: { uses: base, with: { source: old } }\n  \
        e: { uses: eval, matrix: { model: [\"${{ steps.o }}\", \"${{ steps.m }}\"] }, with: { model: \"${{ matrix.model }}\", tasks: [{ name: boolq, dataset: \"${{ steps.data }}\" }] } }\n";
    let plan = plan(text);
    let cells: Vec<&str> = plan.cells("e").map(|index| plan.graph[index].id.as_str()).collect();
    // Only the cells that refer to `m` inherit its axis.
    assert_eq!(cells, ["e[model=o]", "e[model=m,size=old]", "e[model=m,size=new]"]);
    assert_eq!(plan.graph[plan.find("e[model=o]").unwrap()].cell["model"], json!("o"));
}

#[test]
fn inherited_axes_are_visible() {
    let text = format!(
        "version: 1\nsteps:\n{}{}",
        command("a", ", matrix: { x: [1, 2] }", ""),
        command("b", "", ", steps: { a: '${{ steps.a }}' }, env: { X: 'is ${{ matrix.x }}' }"),
    );
    assert_eq!(params(&plan(&text), "b[x=2]")["env"]["X"], json!("is 2"));
}

#[test]
fn needs_orders_without_data() {
    let text = format!(
        "version: 1\nsteps:\n{}{}{}",
        command("a", ", matrix: { x: [1, 2] }", ""),
        command("all", ", needs: [a]", ""),
        command("same", ", matrix: { x: [2, 1] }, needs: '${{ steps.a }}'", ""),
    );
    let plan = plan(&text);
    assert_eq!(upstream(&plan, "all"), ["a[x=1]", "a[x=2]"]);
    assert_eq!(upstream(&plan, "same[x=2]"), ["a[x=2]"]);
    assert_eq!(plan.graph[plan.find("same[x=2]").unwrap()].needs, ["a[x=2]"]);
}

#[test]
fn includes_bring_steps_and_their_folder() {
    let dir = space();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("sub/rows.txt"), "x").unwrap();
    let common = "params: { pc: 0.1, pi: 0.1 }\nsteps:\n  d: { uses: dataset, with: { source: rows.txt, format: text } }\n";
    std::fs::write(dir.path().join("sub/common.yaml"), common).unwrap();
    let text = format!(
        "version: 1\ninclude: [sub/common.yaml]\nparams: {{ pc: 0 }}\nsteps:\n{}",
        command("c", "", ", env: { P: '${{ params.pc }} ${{ params.pi }}' }")
    );
    let plan = planned(dir.path(), &text, &[]);
    assert_eq!(ids(&plan), ["d", "c"]);
    assert_eq!(params(&plan, "d")["source"], json!(dir.path().join("sub/rows.txt")));
    assert_eq!(params(&plan, "c")["env"]["P"], json!("0 0.1"));
}

#[test]
fn a_template_of_ones_own_is_a_file() {
    let dir = space();
    std::fs::write(dir.path().join("mine.md.j2"), "").unwrap();
    let text = DESIGN.replace("template: report", "template: mine.md.j2");
    let plan = planned(dir.path(), &text, &[]);
    let report = &plan.graph[plan.find("report").unwrap()];
    assert_eq!(report.params["template_file"], json!(dir.path().join("mine.md.j2")));
    assert_eq!(report.files.len(), 1);
}

#[test]
fn selections_follow_edges() {
    let plan = plan(DESIGN);
    let names = |selection: Selection| -> Vec<String> {
        plan.select(&selection).unwrap().into_iter().map(|index| plan.graph[index].id.clone()).collect()
    };
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(names(Selection::default()).len(), plan.graph.node_count());
    assert_eq!(names(Selection { only: list(&["scores"]), ..Selection::default() }).len(), 6);
    assert_eq!(
        names(Selection { until: list(&["tokens"]), ..Selection::default() }),
        ["old", "data", "tokens"]
    );
    assert_eq!(
        names(Selection { from: list(&["moved[method=lora,seed=1]"]), ..Selection::default() }),
        ["moved[method=lora,seed=1]", "scores[method=lora,seed=1]", "report"]
    );
    let error = plan.select(&Selection { only: list(&["trian"]), ..Selection::default() }).unwrap_err();
    assert!(matches!(error, Error::NoMatch(_)));
    assert_eq!(error.to_string(), "no step is called `trian`\nhint: did you mean `train`?");
    let none = Selection { only: list(&["old"]), from: list(&["new"]), ..Selection::default() };
    assert_eq!(plan.select(&none).unwrap_err().exit_code(), 4);
}

#[test]
fn graphs_are_drawn() {
    let text = format!(
        "version: 1\nname: g\nsteps:\n{}{}",
        command("a", ", matrix: { x: [1] }", ""),
        command("b", "", ", steps: { a: '${{ steps.a }}' }"),
    );
    let plan = plan(&text);
    assert_eq!(
        plan.to_mermaid(),
        "flowchart TD\n    n0[\"a#91;x=1#93;<br/><i>command</i>\"]\n    n1[\"b#91;x=1#93;<br/><i>command</i>\"]\n    n0 --> n1\n"
    );
    assert_eq!(
        plan.to_dot(),
        "digraph \"g\" {\n    node [shape=box];\n    n0 [label=\"a[x=1]\\ncommand\"];\n    n1 [label=\"b[x=1]\\ncommand\"];\n    n0 -> n1;\n}\n"
    );
    let json = serde_json::to_value(plan.to_json()).unwrap();
    assert_eq!(json["nodes"][1]["needs"], json!(["a[x=1]"]));
    assert_eq!(json["nodes"][1]["uses"], json!("command"));
}
