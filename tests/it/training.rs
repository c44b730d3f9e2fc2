//! What the training loop survives, and what it watches.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use burn::tensor::{Device, Tensor};
use evergraft::{
    data::TokenSet,
    model::Decoder,
    params::{AdapterParams, OptimizerParams, RateSchedule, RateShape, TransPeftParams},
    peft::Adapter,
    train::{Evaluation, Finished, Subject, Trainer, Update, Watch, hold_out},
};

use crate::{
    messages::known,
    method::{adapter, rows, weights},
    processes::kill,
    space::Space,
    tiny,
};

/// Stops a run, and notes what it is told.
#[derive(Default)]
struct Onlooker {
    /// Fail after this step, as a crash would: nothing is saved then.
    crash_after: Option<usize>,
    /// Ask for an orderly end after this step.
    stop_after: Option<usize>,
    updates: Vec<Update>,
    evaluations: Vec<Evaluation>,
    resumed: Option<usize>,
    /// Of the run.
    warnings: Vec<String>,
    /// Of the result.
    signs: Vec<String>,
}

impl Watch for Onlooker {
    fn check(&self) -> anyhow::Result<()> {
        let done = self.updates.last().map_or(0, |update| update.step);
        anyhow::ensure!(self.stop_after.is_none_or(|stop| done < stop), "stopped on request");
        Ok(())
    }
    fn resumed(&mut self, step: usize) {
        self.resumed = Some(step);
    }
    fn updated(&mut self, update: &Update) -> anyhow::Result<()> {
        self.updates.push(update.clone());
        anyhow::ensure!(self.crash_after != Some(update.step), "crashed");
        Ok(())
    }
    fn evaluated(&mut self, evaluation: &Evaluation) {
        self.evaluations.push(evaluation.clone());
    }
    fn trouble(&mut self, message: &str) {
        self.warnings.push(message.to_owned());
    }
    fn warn(&mut self, message: &str) {
        self.signs.push(message.to_owned());
    }
}

/// A run that uses everything which is carried from step to step.
struct Case {
    tokens: TokenSet,
    held_out: Option<TokenSet>,
    params: OptimizerParams,
    subject: Subject,
}

impl Case {
    fn adapter(schedule: RateSchedule) -> Self {
        let (tokens, held_out) = hold_out(&rows(), 0.25).unwrap();
        let trans_peft = TransPeftParams { pc: 0.3, pi: 0.2, schedule, ..TransPeftParams::default() };
        Self {
            tokens,
            held_out: Some(held_out),
            params: OptimizerParams {
                learning_rate: 1e-2,
                max_steps: Some(24),
                per_device_train_batch_size: 3,
                gradient_accumulation_steps: 2,
                logging_steps: 4,
                eval_steps: Some(5),
                load_best_model_at_end: true,
                save_steps: Some(3),
                ..OptimizerParams::default()
            },
            subject: Subject::Adapter { trans_peft, lora_dropout: 0.1 },
        }
    }

    fn model(&self) -> Decoder {
        let mut model = tiny::decoder(2, &Device::flex().autodiff());
        if let Subject::Adapter { .. } = self.subject {
            let targets = ["q_proj", "v_proj", "up_proj", "down_proj"];
            Adapter::new(&adapter(&targets)).attach_new(&mut model, 5).unwrap();
        }
        model
    }

    fn train(
        &self,
        model: &mut Decoder,
        folder: Option<&Path>,
        onlooker: &mut Onlooker,
    ) -> anyhow::Result<Finished> {
        let trainer = Trainer {
            tokens: &self.tokens,
            held_out: self.held_out.as_ref(),
            params: &self.params,
            subject: self.subject.clone(),
            seed: 5,
            checkpoints: folder,
        };
        trainer.run(model, onlooker)
    }

    fn run(&self, folder: Option<&Path>, onlooker: &mut Onlooker) -> anyhow::Result<(Decoder, Finished)> {
        let mut model = self.model();
        let finished = self.train(&mut model, folder, onlooker)?;
        Ok((model, finished))
    }

    /// Everything that a run gives, as bits.
    fn result(&self, folder: Option<&Path>, onlooker: &mut Onlooker) -> (Vec<u32>, String, String) {
        let (mut model, finished) = self.run(folder, onlooker).unwrap();
        let bits = weights(&mut model).into_iter().map(f32::to_bits).collect();
        (bits, finished.metrics, serde_json::to_string(&finished.summary).unwrap())
    }
}

fn adaptive() -> RateSchedule {
    RateSchedule {
        shape: RateShape::Adaptive,
        target: Some(0.02),
        measure_steps: Some(2),
        ..RateSchedule::default()
    }
}

fn steps_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_run_that_crashes_after_any_step_and_goes_on_gives_the_same_bits() {
    let pretraining = Case {
        held_out: None,
        params: OptimizerParams {
            load_best_model_at_end: false,
            eval_steps: None,
            ..Case::adapter(adaptive()).params
        },
        subject: Subject::Everything,
        ..Case::adapter(adaptive())
    };
    for case in [Case::adapter(adaptive()), pretraining] {
        let whole = case.result(None, &mut Onlooker::default());
        for crash in [1, 2, 3, 7, 10, 23] {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path().join("not/there/yet");
            let mut onlooker = Onlooker { crash_after: Some(crash), ..Onlooker::default() };
            assert!(case.run(Some(&folder), &mut onlooker).is_err());
            // Once more in the middle of what is left.
            let mut again = Onlooker { crash_after: Some((crash + 6).min(24)), ..Onlooker::default() };
            assert!(case.run(Some(&folder), &mut again).is_err());
            let mut last = Onlooker::default();
            assert_eq!(case.result(Some(&folder), &mut last), whole, "crash after {crash}");
            // A crash comes before the checkpoint of its own step.
            let expected = ((crash + 6).min(24) - 1) / 3 * 3;
            assert_eq!(last.resumed, Some(expected).filter(|step| *step > 0), "crash after {crash}");
            assert!(last.warnings.is_empty(), "{:?}", last.warnings);
            assert!(steps_in(&folder).len() <= 2, "{:?}", steps_in(&folder));
        }
    }
}

#[test]
fn a_stopped_run_leaves_a_checkpoint_of_its_last_step() {
    let mut case = Case::adapter(RateSchedule::default());
    case.params.save_steps = None;
    let whole = case.result(None, &mut Onlooker::default());
    let dir = tempfile::tempdir().unwrap();
    for stop in [0, 5, 11] {
        let mut onlooker = Onlooker { stop_after: Some(stop), ..Onlooker::default() };
        assert_eq!(case.run(Some(dir.path()), &mut onlooker).unwrap_err().to_string(), "stopped on request");
    }
    assert_eq!(steps_in(dir.path()), ["step-0000000005", "step-0000000011"]);
    let mut last = Onlooker::default();
    assert_eq!(case.result(Some(dir.path()), &mut last), whole);
    assert_eq!(last.resumed, Some(11));
    case.params.save_steps = Some(0);
    let none = tempfile::tempdir().unwrap();
    let mut onlooker = Onlooker { stop_after: Some(5), ..Onlooker::default() };
    assert!(case.run(Some(none.path()), &mut onlooker).is_err());
    assert!(steps_in(none.path()).is_empty(), "`save_steps: 0` writes none");
}

#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before() {
    let case = Case::adapter(adaptive());
    let whole = case.result(None, &mut Onlooker::default());
    let dir = tempfile::tempdir().unwrap();
    let mut crashed = Onlooker { crash_after: Some(14), ..Onlooker::default() };
    assert!(case.run(Some(dir.path()), &mut crashed).is_err());
    assert_eq!(steps_in(dir.path()), ["step-0000000009", "step-0000000012"]);
    let newest = dir.path().join("step-0000000012");
    let files = steps_in(&newest);
    assert_eq!(
        files,
        [
            "best.safetensors",
            "checkpoint.json",
            "metrics.jsonl",
            "optimizer.safetensors",
            "weights.safetensors"
        ]
    );
    let copy = tempfile::tempdir().unwrap();
    let fresh = |target: &Path| {
        let _ = std::fs::remove_dir_all(target);
        for entry in walkdir::WalkDir::new(dir.path()).into_iter().map(Result::unwrap) {
            let to = target.join(entry.path().strip_prefix(dir.path()).unwrap());
            if entry.file_type().is_dir() {
                std::fs::create_dir_all(to).unwrap();
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    };
    for file in &files {
        let bytes = std::fs::read(newest.join(file)).unwrap();
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 1;
        for broken in [Some(&bytes[..bytes.len() - 1]), Some(&[]), Some(&flipped), None] {
            let folder = copy.path().join("run");
            fresh(&folder);
            let place = folder.join("step-0000000012").join(file);
            match broken {
                Some(broken) => std::fs::write(&place, broken).unwrap(),
                None => std::fs::remove_file(&place).unwrap(),
            }
            let mut onlooker = Onlooker { crash_after: Some(10), ..Onlooker::default() };
            assert!(case.run(Some(&folder), &mut onlooker).is_err());
            assert_eq!(onlooker.resumed, Some(9), "{file}");
            let [warning] = &onlooker.warnings[..] else { panic!("{:?}", onlooker.warnings) };
            assert!(warning.starts_with("the checkpoint of step 12 is damaged and not used"), "{warning}");
        }
    }
    // Both damaged: from the start, with the same result.
    for step in ["step-0000000009", "step-0000000012"] {
        std::fs::write(dir.path().join(step).join("weights.safetensors"), "x").unwrap();
    }
    std::fs::create_dir(dir.path().join(".new-half")).unwrap();
    let mut last = Onlooker::default();
    assert_eq!(case.result(Some(dir.path()), &mut last), whole);
    assert_eq!(last.resumed, None);
    assert_eq!(last.warnings.len(), 3, "{:?}", last.warnings);
    assert!(last.warnings[2].contains("training starts over"), "{:?}", last.warnings);
    assert!(!dir.path().join(".new-half").exists());
}

/// A checkpoint that the system does not let be read may be whole: it stays, and nothing starts over.
#[test]
fn a_checkpoint_that_cannot_be_read_ends_the_run() {
    let case = Case::adapter(RateSchedule::default());
    for file in ["checkpoint.json", "weights.safetensors", "optimizer.safetensors", "metrics.jsonl"] {
        let dir = tempfile::tempdir().unwrap();
        let mut crashed = Onlooker { crash_after: Some(7), ..Onlooker::default() };
        assert!(case.run(Some(dir.path()), &mut crashed).is_err());
        let place = dir.path().join("step-0000000006").join(file);
        std::fs::remove_file(&place).unwrap();
        std::os::unix::fs::symlink(&place, &place).unwrap();
        let mut onlooker = Onlooker::default();
        let error = format!("{:#}", case.run(Some(dir.path()), &mut onlooker).err().unwrap());
        assert!(error.starts_with("the checkpoint of step 6 cannot be read: "), "{error}");
        assert!(error.contains(file), "{error}");
        assert!(onlooker.warnings.is_empty(), "{:?}", onlooker.warnings);
        assert_eq!(steps_in(dir.path()), ["step-0000000003", "step-0000000006"], "{file}");
    }
}

/// Another version of the program may still want its checkpoints.
#[test]
fn a_checkpoint_of_another_format_is_left_alone() {
    let case = Case::adapter(RateSchedule::default());
    let dir = tempfile::tempdir().unwrap();
    let mut crashed = Onlooker { crash_after: Some(14), ..Onlooker::default() };
    assert!(case.run(Some(dir.path()), &mut crashed).is_err());
    let json = r#"{"format": 2, "all_else": "is new"}"#;
    let header = format!("{}\n{json}", evergraft::digest::Digest::of_bytes(json.as_bytes()));
    let place = |step: usize| dir.path().join(format!("step-{step:010}")).join("checkpoint.json");
    std::fs::write(place(12), &header).unwrap();
    let mut onlooker = Onlooker { crash_after: Some(10), ..Onlooker::default() };
    assert!(case.run(Some(dir.path()), &mut onlooker).is_err());
    assert_eq!(onlooker.resumed, Some(9));
    let [warning] = &onlooker.warnings[..] else { panic!("{:?}", onlooker.warnings) };
    assert!(warning.starts_with("the checkpoint of step 12 is of another version"), "{warning}");
    // They count for nothing where the oldest go.
    std::fs::write(place(9), &header).unwrap();
    let mut onlooker = Onlooker { crash_after: Some(7), ..Onlooker::default() };
    assert!(case.run(Some(dir.path()), &mut onlooker).is_err());
    assert_eq!(onlooker.resumed, None);
    assert_eq!([9, 12].map(|step| std::fs::read_to_string(place(step)).unwrap()), [&*header; 2]);
    let mut onlooker = Onlooker::default();
    let whole = case.result(None, &mut Onlooker::default());
    assert_eq!(case.result(Some(dir.path()), &mut onlooker), whole);
    assert_eq!(onlooker.resumed, Some(6));
    assert!(
        onlooker.warnings.iter().all(|warning| warning.contains("left alone")),
        "{:?}",
        onlooker.warnings
    );
}

#[test]
fn an_unwritable_folder_warns_and_training_goes_on() {
    let case = Case::adapter(RateSchedule::default());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let mut onlooker = Onlooker::default();
    let result = case.result(Some(&file), &mut onlooker);
    assert!(
        onlooker.warnings[0].contains("the checkpoint of step 3 is not written"),
        "{:?}",
        onlooker.warnings
    );
    assert_eq!(result, case.result(None, &mut Onlooker::default()));
}

#[test]
fn held_out_rows_are_measured_untouched_and_change_nothing() {
    let mut case = Case::adapter(RateSchedule::default());
    case.params.load_best_model_at_end = false;
    let mut onlooker = Onlooker::default();
    let (with, metrics, _) = case.result(None, &mut onlooker);
    let steps: Vec<usize> = onlooker.evaluations.iter().map(|evaluation| evaluation.step).collect();
    assert_eq!(steps, [5, 10, 15, 20, 24]);
    assert!(metrics.contains("\"eval_loss\":"), "{metrics}");
    let held_out = case.held_out.take();
    let mut alone = Onlooker::default();
    let (without, ..) = case.result(None, &mut alone);
    assert_eq!(with, without);
    // The loss of a run that trains on the held-out rows with rate 0 and nothing masked is the same.
    let plain = Subject::Adapter { trans_peft: TransPeftParams::default(), lora_dropout: 0.0 };
    let probe = Case {
        tokens: held_out.unwrap(),
        held_out: Some(rows()),
        params: OptimizerParams {
            learning_rate: 1e-30,
            max_steps: Some(1),
            per_device_train_batch_size: 4,
            ..OptimizerParams::default()
        },
        subject: plain,
    };
    let mut own = Case { held_out: Some(probe.tokens.clone()), ..probe };
    own.params.eval_steps = Some(1);
    let mut onlooker = Onlooker::default();
    own.run(None, &mut onlooker).unwrap();
    let (trained, measured) = (onlooker.updates[0].loss, onlooker.evaluations[0].eval_loss);
    assert!((trained - measured).abs() < 1e-6, "{trained} != {measured}");
}

#[test]
fn patience_ends_a_run_and_the_best_weights_come_back() {
    let mut case = Case::adapter(RateSchedule::default());
    // Far too fast: the held-out loss rises soon.
    case.params.learning_rate = 0.1;
    case.params.max_steps = Some(200);
    case.params.eval_steps = Some(2);
    case.params.early_stopping_patience = Some(3);
    let mut onlooker = Onlooker::default();
    let (mut model, finished) = case.run(None, &mut onlooker).unwrap();
    let held_out = finished.summary.held_out.clone().unwrap();
    assert!(held_out.stopped_early && held_out.best_loaded, "{held_out:?}");
    assert_eq!(finished.summary.steps, held_out.best_step + 2 * 3);
    let lowest = onlooker.evaluations.iter().map(|e| e.eval_loss).fold(f64::INFINITY, f64::min);
    assert_eq!(held_out.best_eval_loss, lowest);
    // A run that ends at the best step has the same weights.
    case.params.early_stopping_patience = None;
    let mut short =
        Onlooker { crash_after: None, stop_after: Some(held_out.best_step), ..Onlooker::default() };
    let dir = tempfile::tempdir().unwrap();
    assert!(case.run(Some(dir.path()), &mut short).is_err());
    let stored = dir.path().join(format!("step-{:010}/weights.safetensors", held_out.best_step));
    let stored = evergraft::model::SafetensorsWeights::open_file(&stored).unwrap();
    for param in model.adapter_params() {
        use evergraft::model::WeightSource as _;
        let value: Vec<f32> = param.value().into_data().try_to_vec().unwrap();
        assert_eq!(stored.load(&param.name).unwrap(), value, "{}", param.name);
    }
}

#[test]
fn each_step_says_which_rates_were_in_force() {
    let linear = RateSchedule { shape: RateShape::Linear, ..RateSchedule::default() };
    let mut onlooker = Onlooker::default();
    let (_, metrics, summary) = Case::adapter(linear).result(None, &mut onlooker);
    let rates: Vec<f64> =
        onlooker.updates.iter().map(|update| update.trans_peft.as_ref().unwrap().pc).collect();
    assert_eq!((rates[0], rates[23]), (0.0, 0.3));
    assert!(rates.is_sorted());
    assert!(metrics.lines().next().unwrap().contains("\"pc\":0.0,\"pi\":0.0,\"masked\":0.0"), "{metrics}");
    assert!(summary.contains("\"mean_pc\":0.15"), "{summary}");
    let masked = onlooker.updates[23].trans_peft.as_ref().unwrap().masked;
    assert!((masked - 0.2).abs() < 0.05, "{masked}");

    let mut onlooker = Onlooker::default();
    Case::adapter(adaptive()).result(None, &mut onlooker);
    let steps: Vec<_> = onlooker.updates.iter().map(|update| update.trans_peft.clone().unwrap()).collect();
    assert!(steps.iter().enumerate().all(|(at, step)| step.loss_gap.is_some() == (at % 2 == 0)));
    assert!(steps.iter().any(|step| step.pc < 0.3), "the controller moved");
    assert!(steps.iter().all(|step| (step.pi - step.pc / 1.5).abs() < 1e-12));
}

#[test]
fn with_both_rates_zero_a_schedule_changes_nothing() {
    let plain = |schedule| {
        let mut case = Case::adapter(RateSchedule::default());
        let trans_peft = TransPeftParams { schedule, ..TransPeftParams::default() };
        case.subject = Subject::Adapter { trans_peft, lora_dropout: 0.1 };
        case.result(None, &mut Onlooker::default())
    };
    let constant = plain(RateSchedule::default());
    assert_eq!(plain(adaptive()), constant);
    assert_eq!(plain(RateSchedule { shape: RateShape::Cosine, ..RateSchedule::default() }), constant);
}

/// Training settings are not blamed for what the base brought along.
#[test]
fn a_damaged_base_is_named() {
    let name = "model.layers.1.mlp.up_proj.weight";
    for subject in [Case::adapter(RateSchedule::default()).subject, Subject::Everything] {
        let case = Case { subject, ..Case::adapter(RateSchedule::default()) };
        let mut model = case.model();
        let mut broken = model.params().into_iter().find(|param| param.name == name).unwrap();
        broken.set(Tensor::from_inner(broken.value().mul_scalar(f32::NAN)));
        let error = case.train(&mut model, None, &mut Onlooker::default()).err().unwrap();
        let text = error.to_string();
        assert!(text.contains(&format!("the base is damaged, its weight `{name}` holds")), "{text}");
        assert!(!evergraft::error::hint_of(&error).unwrap().contains("learning_rate"));
    }
}

#[test]
fn a_layer_that_the_model_lacks_is_named() {
    let mut model = tiny::decoder(2, &Device::flex());
    for layers in [vec![1, 9], vec![9]] {
        let params = AdapterParams { layers_to_transform: Some(layers), ..adapter(&["q_proj"]) };
        let error = Adapter::new(&params).attach_new(&mut model, 5).unwrap_err();
        assert_eq!(error.to_string(), "`layers_to_transform` names layer 9, but this model has 2 layers");
    }
}

#[test]
fn a_diverging_run_ends_with_its_cause_and_keeps_its_checkpoint() {
    for (learning_rate, cause) in [(1e30, "exactly zero"), (1e60, "not finite")] {
        let mut case = Case::adapter(RateSchedule::default());
        case.params.learning_rate = learning_rate;
        case.params.max_steps = Some(100);
        case.params.warmup_steps = Some(50);
        case.params.max_grad_norm = 0.0;
        case.params.save_steps = Some(1);
        let dir = tempfile::tempdir().unwrap();
        let mut onlooker = Onlooker::default();
        let Err(error) = case.run(Some(dir.path()), &mut onlooker) else {
            panic!("rate {learning_rate} is fine")
        };
        let text = known(&error);
        assert!(text.contains("training diverged in step ") && text.contains(cause), "{text}");
        assert!(text.contains("learning rate ") && text.contains("pc 0.3 and pi 0.2"), "{text}");
        assert!(text.contains("the checkpoint of step "), "{text}");
        // The checkpoint that is kept holds no broken weight.
        for step in steps_in(dir.path()) {
            use evergraft::model::WeightSource as _;
            let file = dir.path().join(step).join("weights.safetensors");
            let weights = evergraft::model::SafetensorsWeights::open_file(&file).unwrap();
            for name in weights.names() {
                assert!(weights.load(&name).unwrap().iter().all(|value| value.is_finite()), "{name}");
            }
        }
        let hint = evergraft::error::hint_of(&error).unwrap();
        assert!(hint.contains("halve `pc` and `pi` first") && hint.contains("max_grad_norm: 1"), "{hint}");
    }
}

#[test]
fn rates_that_did_nothing_are_told_at_the_end() {
    for (pc, pi, words) in [(1e-9, 0.0, None), (0.0, 1e-9, Some("no activation was masked"))] {
        let mut case = Case::adapter(RateSchedule::default());
        let trans_peft = TransPeftParams { pc, pi, ..TransPeftParams::default() };
        case.subject = Subject::Adapter { trans_peft, lora_dropout: 0.0 };
        let mut onlooker = Onlooker::default();
        case.run(None, &mut onlooker).unwrap();
        let fits = match (&onlooker.signs[..], words) {
            ([sign], Some(words)) => sign.starts_with(words) && sign.contains("plain LoRA"),
            ([], None) => true,
            _ => false,
        };
        assert!(fits, "{pc} {pi}: {:?}", onlooker.signs);
    }
    let mut onlooker = Onlooker::default();
    Case::adapter(RateSchedule::default()).run(None, &mut onlooker).unwrap();
    assert!(onlooker.signs.is_empty(), "{:?}", onlooker.signs);
}

/// The shipped tiny base, and `steps` optimizer steps on it.
fn recipe(steps: usize, optimizer: &str) -> String {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny");
    let tiny = tiny.display();
    format!(
        r#"version: 1
name: survives
steps:
  old: {{ uses: base, with: {{ source: {tiny}/old }} }}
  rows: {{ uses: dataset, with: {{ source: {tiny}/train.jsonl.gz, format: alpaca, split: "[:40]" }} }}
  tokens: {{ uses: tokenize, with: {{ base: "${{{{ steps.old }}}}", dataset: "${{{{ steps.rows }}}}", prompt: plain, max_seq_length: 64 }} }}
  train:
    uses: train
    with:
      base: "${{{{ steps.old }}}}"
      tokens: "${{{{ steps.tokens }}}}"
      validation_split: 0.2
      adapter: {{ r: 4, lora_dropout: 0.1 }}
      trans_peft: {{ pc: 0.2, pi: 0.1, schedule: {{ type: adaptive }} }}
      optimizer: {{ max_steps: {steps}, per_device_train_batch_size: 2, eval_steps: 7, load_best_model_at_end: true, {optimizer} }}
"#
    )
}

/// Waits until the only unfinished step has a checkpoint of a later step than `after`; gives its step.
fn wait_for_checkpoint(space: &Space, after: usize) -> usize {
    let folder = space.path().join("cache/steps-v1/checkpoints");
    let start = Instant::now();
    loop {
        let newest = walkdir::WalkDir::new(&folder)
            .max_depth(2)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok())
            .max();
        if let Some(step) = newest.filter(|step| *step > after) {
            return step;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "no checkpoint after {after}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn artifact(space: &Space) -> PathBuf {
    space.path().join("outputs/survives/latest/steps/train/artifact").canonicalize().unwrap()
}

/// The three-way test: uninterrupted, killed once, killed twice. The artifact's folder is named by the
/// digest of its bytes.
#[test]
fn killed_training_goes_on_and_gives_the_same_bytes() {
    let whole = Space::new(&recipe(60, "save_steps: 0"));
    whole.expect(0, &["run"]);
    let whole = artifact(&whole);
    println!("uninterrupted: {}", whole.file_name().unwrap().to_string_lossy());
    for kills in [1, 2] {
        let space = Space::new(&recipe(60, "save_steps: 4, save_total_limit: 3"));
        let mut at = 0;
        for _ in 0..kills {
            let mut child = space.command(&["run", "-q"]).stderr(Stdio::null()).spawn().unwrap();
            at = wait_for_checkpoint(&space, at);
            child.kill().unwrap();
            assert!(!child.wait().unwrap().success(), "it was killed before it was done");
        }
        let size = space.expect(0, &["cache", "size"]).stdout;
        assert!(size.contains(", checkpoints of 1 unfinished step, "), "{size}");
        let ran = space.expect(0, &["run"]);
        let line = ran.stderr.lines().find(|line| line.contains("train  resumes at step ")).unwrap();
        assert!(line.ends_with(" of 60"), "{line}");
        let resumed: usize = line.split_whitespace().rev().nth(2).unwrap().parse().unwrap();
        assert!(resumed >= at, "{line}, though a checkpoint of step {at} was there");
        let result = artifact(&space);
        println!("killed {kills} times: {}", result.file_name().unwrap().to_string_lossy());
        assert_eq!(result.file_name(), whole.file_name());
        for name in ["adapter_model.safetensors", "metrics.jsonl", "evergraft.json", "train.json"] {
            let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
            assert_eq!(read(&result), read(&whole), "{name}");
        }
        let left = std::fs::read_dir(space.path().join("cache/steps-v1/checkpoints")).unwrap().count();
        assert_eq!(left, 0, "checkpoints go with the commit");
        assert_eq!(space.counts(&[]), (0, 4));
    }
}

#[test]
fn ctrl_c_saves_and_force_starts_afresh() {
    let space = Space::new(&recipe(100_000, "save_steps: 10"));
    let mut child = space.command(&["run"]).stderr(Stdio::null()).spawn().unwrap();
    let seen = wait_for_checkpoint(&space, 0);
    let pid = child.id().to_string();
    std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let left = wait_for_checkpoint(&space, 0);
    assert!(left >= seen);
    // How often checkpoints are written is no part of the key, so the run goes on from them.
    space.write("recipe.yaml", recipe(100_000, "save_total_limit: 1"));
    for (args, resumes) in [(&["run"][..], true), (&["run", "--force=train"][..], false)] {
        let mut child = space.command(args).stderr(Stdio::piped()).spawn().unwrap();
        // Long enough to begin; an orderly stop then saves.
        std::thread::sleep(Duration::from_secs(3));
        let pid = child.id().to_string();
        std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        let mut said = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(143));
        assert_eq!(said.contains("resumes at step"), resumes, "{said}");
    }
    let ran = space.expect(0, &["cache", "clean", "--checkpoints"]);
    assert!(ran.stdout.starts_with("removed the checkpoints of 1 step, "), "{}", ran.stdout);
    assert!(!space.path().join("cache/steps-v1/checkpoints").exists());
}

#[test]
fn how_often_checkpoints_are_written_is_no_part_of_the_key() {
    let space = Space::new(&recipe(1, "save_steps: 0"));
    space.expect(0, &["run"]);
    for (optimizer, code) in [("save_steps: 5", 0), ("save_total_limit: 9", 0), ("logging_steps: 5", 5)] {
        space.write("recipe.yaml", recipe(1, optimizer));
        space.expect(code, &["plan", "--check"]);
    }
}

/// TensorBoard's files lie in the run's folder, outside the result.
#[test]
fn a_run_leaves_curves_for_tensorboard() {
    let space = Space::new(&recipe(3, "save_steps: 0"));
    space.expect(0, &["run"]);
    let folder = space.path().join("outputs/survives/latest/tensorboard/train");
    let [file] = &steps_in(&folder)[..] else { panic!("{:?}", steps_in(&folder)) };
    assert!(file.starts_with("events.out.tfevents."), "{file}");
    let bytes = std::fs::read(folder.join(file)).unwrap();
    let mut tags = Vec::new();
    let mut rest = &bytes[..];
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = u64::from_le_bytes(*length) as usize;
        let data = String::from_utf8_lossy(&after[4..4 + length]).into_owned();
        tags.extend(["train/loss", "trans_peft/loss_gap", "eval/loss"].map(|tag| data.contains(tag)));
        rest = &after[4 + length + 4..];
    }
    let (yes, no) = (true, false);
    // The file's version, three steps (the gap is measured in the first), and the end's measurement.
    assert_eq!(tags, [no, no, no, yes, yes, no, yes, no, no, yes, no, no, no, no, yes]);
}

#[test]
fn a_checkpoint_damaged_on_the_disk_is_warned_of_once() {
    let space = Space::new(&recipe(40, "save_steps: 4"));
    let mut child = space.command(&["run", "-q"]).stderr(Stdio::null()).spawn().unwrap();
    wait_for_checkpoint(&space, 4);
    kill(&mut child, &space);
    let [key] = &steps_in(&space.path().join("cache/steps-v1/checkpoints"))[..] else { panic!() };
    let folder = space.path().join("cache/steps-v1/checkpoints").join(key);
    let newest = steps_in(&folder).into_iter().rfind(|name| name.starts_with("step-")).unwrap();
    let file = folder.join(&newest).join("optimizer.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let ran = space.expect(0, &["run", "-q"]);
    let step: usize = newest.trim_start_matches("step-").parse().unwrap();
    let words = format!("warning: train: the checkpoint of step {step} is damaged and not used: ");
    assert!(ran.stderr.starts_with(&words), "{}", ran.stderr);
    let resumed = artifact(&space);
    // The result is whole, so nobody hears of it again.
    assert_eq!(space.expect(0, &["run", "-q"]).stderr, "");
    let whole = Space::new(&recipe(40, "save_steps: 0"));
    whole.expect(0, &["run"]);
    assert_eq!(artifact(&whole).file_name(), resumed.file_name());
}

#[test]
fn rows_of_another_step_can_be_held_out() {
    let tokens = "  others: { uses: dataset, with: { source: \"TINY/test.jsonl.gz\", format: alpaca, split: \"[:5]\" } }\n  \
                  other_tokens: { uses: tokenize, with: { base: \"${{ steps.old }}\", dataset: \"${{ steps.others }}\", prompt: plain, max_seq_length: 64 } }\n";
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny").display().to_string();
    let text = recipe(2, "save_steps: 0")
        .replace("validation_split: 0.2", "eval_tokens: \"${{ steps.other_tokens }}\"");
    let space = Space::new(&(text + &tokens.replace("TINY", &tiny)));
    space.expect(0, &["run"]);
    let read = |name: &str| std::fs::read_to_string(artifact(&space).join(name)).unwrap();
    let json = |name: &str| serde_json::from_str::<serde_json::Value>(&read(name)).unwrap();
    assert!(json("evergraft.json")["eval_tokens_digest"].as_str().unwrap().starts_with("blake3:"));
    let (lines, summary) = (read("metrics.jsonl"), json("train.json"));
    let last: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!((last["step"].as_u64(), &last["eval_loss"]), (Some(2), &summary["eval_loss"]));
    assert_eq!(summary["best_step"], 2);
}
