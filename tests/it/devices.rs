//! Devices: the suite runs on all that are present; names that stand for none are refused.

use burn::tensor::Device;
use evergraft::{
    device,
    params::{DeviceName, Dtype},
};
use serde_json::{Value, json};

use crate::space::Space;

/// Runs a test on every device that this machine has and the program was built for.
pub(crate) fn on_every_device(test: impl Fn(&Device)) {
    for name in device::present() {
        println!("on `{name}`:");
        test(&device::resolve(name).unwrap());
    }
}

/// Trains one step on `device`.
fn recipe(device: &str) -> String {
    let tiny = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny");
    format!(
        r#"version: 1
name: devices
steps:
  old: {{ uses: base, with: {{ source: {tiny}/old }} }}
  rows: {{ uses: dataset, with: {{ source: {tiny}/train.jsonl.gz, format: alpaca, split: "[:8]" }} }}
  tokens: {{ uses: tokenize, with: {{ base: "${{{{ steps.old }}}}", dataset: "${{{{ steps.rows }}}}", prompt: plain }} }}
  train:
    uses: train
    with:
      base: "${{{{ steps.old }}}}"
      tokens: "${{{{ steps.tokens }}}}"
      optimizer: {{ max_steps: 1, per_device_train_batch_size: 2 }}
      device: {device}
"#,
        tiny = tiny.display()
    )
}

#[test]
fn devices_lists_what_is_there() {
    let space = Space::new("");
    let names: Vec<String> = device::present().map(|name| name.to_string()).collect();
    let listed: Value =
        serde_json::from_str(&space.expect(0, &["devices", "--format", "json"]).stdout).unwrap();
    assert_eq!(listed, json!({ "auto": names[0], "present": names, "libtorch": cfg!(feature = "libtorch") }));
    let text = space.expect(0, &["devices"]).stdout;
    assert!(text.contains("flex") && text.matches("(auto)").count() == 1, "{text}");
    assert_eq!(text.contains("--features libtorch"), !cfg!(feature = "libtorch"), "{text}");
}

#[test]
fn every_device_trains_and_auto_has_the_key_of_the_best_one() {
    let space = Space::new(&recipe("auto"));
    assert_eq!(space.counts(&[]), (4, 0));
    for (place, name) in device::present().enumerate() {
        space.write("recipe.yaml", recipe(&name.to_string()));
        let same = device::class(name, Dtype::F32) == device::class(DeviceName::Auto, Dtype::F32);
        assert_eq!(same, place == 0 || matches!(name, DeviceName::LibTorchCuda(_)), "{name}");
        assert_eq!(space.counts(&[]), if same { (0, 4) } else { (1, 3) }, "{name}");
    }
}

#[cfg(not(feature = "libtorch"))]
#[test]
fn a_device_that_was_not_compiled_in_names_the_feature() {
    let space = Space::new(&recipe("libtorch"));
    for (verb, name) in [("check", "libtorch"), ("plan", "libtorch:cuda:1"), ("run", "libtorch")] {
        space.write("recipe.yaml", recipe(name));
        let (carets, stderr) = ("^".repeat(name.len()), space.expect(2, &[verb]).stderr);
        let expected = format!(
            "error: `device` names `{name}`, but this evergraft was built without the feature `libtorch`
  --> recipe.yaml:13:15
   |
13 |       device: {name}
   |               {carets}
hint: build evergraft with `scripts/libtorch.sh cargo build --release --features libtorch`, or take `device: auto`
"
        );
        assert!(stderr.contains(&expected), "{stderr}");
    }
}

#[cfg(feature = "libtorch")]
#[test]
fn a_cuda_device_that_is_not_there_fails_the_step() {
    let space = Space::new(&recipe("libtorch:cuda:1000"));
    space.expect(0, &["check"]);
    let stderr = space.expect(1, &["run"]).stderr;
    assert!(stderr.contains("there is no device `libtorch:cuda:1000`: LibTorch finds"), "{stderr}");
    assert!(stderr.contains("hint: `evergraft devices` lists what is there"), "{stderr}");
}
