//! Trans-PEFT's rules, from the test vectors of the paper's reference code.

use std::cell::RefCell;

use burn::tensor::{Device, Tensor};
use evergraft::{
    data::TokenSet,
    model::{Decoder, ForwardHook, ModelConfig, TokenBatch, Training, Untouched},
    params::{AdapterParams, MaskKind, OptimizerParams, TargetModules, TransPeftParams},
    peft::{Adapter, TransPeft},
    rng,
    train::{Subject, Trainer, Update, cross_entropy},
};

use crate::{devices::on_every_device, messages::known, tiny};

fn rates(pc: f64, pi: f64) -> TransPeftParams {
    TransPeftParams { pc, pi, ..TransPeftParams::default() }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

/// What a hook makes of a product that is 1.75 everywhere.
fn masked(hook: &TransPeft, layer: usize, shape: [usize; 2], device: &Device) -> Vec<f32> {
    values(hook.ffn_product(layer, Tensor::full(shape, 1.75, device)))
}

fn draw(params: &TransPeftParams, step: usize, micro_batch: usize, layers: usize) -> TransPeft {
    TransPeft::draw(params, 0.0, 11, step, micro_batch, layers)
}

#[test]
fn the_mask_zeroes_at_its_rate_and_keeps_the_rest_exactly() {
    on_every_device(|device| {
        let kept = masked(&draw(&rates(0.0, 0.1), 0, 0, 1), 0, [1000, 1000], device);
        let zeros = kept.iter().filter(|v| **v == 0.0).count();
        assert!((zeros as f64 / 1e6 - 0.1).abs() < 0.0015, "{zeros} of a million");
        assert!(kept.iter().all(|v| *v == 0.0 || v.to_bits() == 1.75f32.to_bits()), "no rescaling");
    });
}

#[test]
fn masks_differ_between_tokens_layers_steps_and_micro_batches() {
    on_every_device(|device| {
        let params = rates(0.0, 0.5);
        let base = masked(&draw(&params, 0, 0, 2), 0, [2, 64], device);
        assert_ne!(base[..64], base[64..], "tokens");
        assert_eq!(
            base,
            masked(&draw(&params, 0, 0, 2), 0, [2, 64], device),
            "a recomputation repeats the mask"
        );
        assert_ne!(base, masked(&draw(&params, 0, 0, 2), 1, [2, 64], device), "layers");
        assert_ne!(base, masked(&draw(&params, 1, 0, 2), 0, [2, 64], device), "steps");
        assert_ne!(base, masked(&draw(&params, 0, 1, 2), 0, [2, 64], device), "micro-batches");
    });
}

#[test]
fn a_neuron_mask_is_one_pattern_for_all_tokens() {
    on_every_device(|device| {
        let params = TransPeftParams { mask: MaskKind::Neuron, ..rates(0.0, 0.5) };
        let mask = masked(&draw(&params, 0, 0, 1), 0, [3, 64], device);
        assert_eq!(mask[..64], mask[64..128]);
        assert!(mask.contains(&0.0) && mask.contains(&1.75));
        assert_eq!(mask, masked(&draw(&params, 0, 3, 1), 0, [3, 64], device), "of the whole optimizer step");
        assert_ne!(mask, masked(&draw(&params, 1, 0, 1), 0, [3, 64], device), "steps");
    });
}

#[test]
fn drops_have_the_expected_count() {
    for (pc, mean, none) in [(0.1, 2.8, 0.0523), (0.2, 5.6, 0.0019)] {
        let n = 20_000;
        let counts: Vec<usize> = (0..n)
            .map(|step| draw(&rates(pc, 0.0), step, 0, 28).dropped().iter().filter(|d| **d).count())
            .collect();
        let got = counts.iter().sum::<usize>() as f64 / n as f64;
        assert!((got - mean).abs() < 0.06, "pc {pc}: {got} dropped on average, not {mean}");
        let empty = counts.iter().filter(|count| **count == 0).count() as f64 / n as f64;
        assert!((empty - none).abs() < 0.007, "pc {pc}: none dropped in {empty}, not {none}");
    }
}

/// trans-peft-facts.md 5.1: dropped below pc, kept exactly at it.
#[test]
fn a_draw_at_the_rate_is_kept() {
    let first = |pc: f64| {
        // The stream of draws is a function of seed and place.
        draw(&rates(pc, 0.0), 3, 1, 1).dropped()[0]
    };
    let (mut kept, mut dropped) = (0.0_f64, 1.0_f64);
    while kept.next_up() < dropped {
        let middle = (kept + dropped) / 2.0;
        if first(middle) { dropped = middle } else { kept = middle }
    }
    assert_eq!(kept, rng::stream(11, "pc", &[3, 1]).unit_f64(), "the draw itself is still kept");
}

fn batch() -> TokenBatch {
    TokenBatch::rows(&[&[1, 2, 3, 4, 5], &[6, 7, 8]])
}

#[test]
fn with_both_rates_zero_the_pass_is_the_plain_one_bit_for_bit() {
    on_every_device(|device| {
        let model = tiny::decoder(3, device);
        let plain = values(model.hidden(&batch(), None, &Training));
        let hook = draw(&rates(0.0, 0.0), 5, 1, 3);
        assert_eq!(plain, values(model.hidden(&batch(), None, &hook)));
        let hook = draw(&rates(0.0, 0.3), 5, 1, 3);
        assert_ne!(plain, values(model.hidden(&batch(), None, &hook)), "a mask must do something");
    });
}

/// Drops the FFNs of some layers; notes which FFNs ran.
struct Dropping {
    layers: Vec<usize>,
    ran: RefCell<Vec<usize>>,
}

impl ForwardHook for Dropping {
    fn drops_ffn(&self, layer: usize) -> bool {
        self.layers.contains(&layer)
    }
    fn ffn_product(&self, layer: usize, product: Tensor<2>) -> Tensor<2> {
        self.ran.borrow_mut().push(layer);
        product
    }
}

#[test]
fn a_dropped_ffn_leaves_the_residual_and_attention_and_is_not_computed() {
    on_every_device(|device| {
        let mut model = tiny::decoder(3, device);
        let hook = Dropping { layers: vec![1], ran: RefCell::default() };
        let dropped = values(model.hidden(&batch(), None, &hook));
        assert_eq!(*hook.ran.borrow(), [0, 2]);
        // x + a without the FFN is what the layer gives when its down projection is zero.
        let down = &mut model.layers[1].ffn.down_proj.weight;
        *down = down.zeros_like();
        assert_eq!(dropped, values(model.hidden(&batch(), None, &Untouched)));
    });
}

pub(crate) fn adapter(targets: &[&str]) -> AdapterParams {
    AdapterParams {
        r: 4,
        lora_alpha: 8.0,
        lora_dropout: 0.0,
        target_modules: TargetModules::Names(targets.iter().map(ToString::to_string).collect()),
        ..AdapterParams::default()
    }
}

#[test]
fn a_fresh_adapter_changes_nothing_and_has_pefts_initialisation() {
    on_every_device(|device| {
        let mut model = tiny::decoder(2, device);
        let plain = values(model.hidden(&batch(), None, &Untouched));
        let count = Adapter::new(&adapter(&["q_proj", "down_proj"])).attach_new(&mut model, 1).unwrap();
        assert_eq!(count, 2 * 4 * ((16 + 16) + (24 + 16)));
        assert_eq!(plain, values(model.hidden(&batch(), None, &Untouched)));
        for param in model.adapter_params() {
            let (value, bound) = (values(param.value()), 1.0 / (param.shape()[1] as f32).sqrt());
            if param.name.ends_with("lora_B.weight") {
                assert!(value.iter().all(|v| *v == 0.0));
            } else {
                assert!(value.iter().all(|v| v.abs() <= bound), "{}", param.name);
                assert!(value.iter().any(|v| v.abs() > 0.8 * bound), "{}", param.name);
            }
        }
        let error = Adapter::new(&adapter(&["q_porj"])).attach_new(&mut model, 1).unwrap_err();
        assert!(known(&error).contains("`q_porj`"), "{error}");
    });
}

#[test]
fn the_adapter_of_a_dropped_ffn_gets_no_gradient() {
    on_every_device(|device| {
        let device = &device.clone().autodiff();
        let mut model = tiny::decoder(2, device);
        Adapter::new(&adapter(&["v_proj", "up_proj"])).attach_new(&mut model, 1).unwrap();
        for mut param in model.adapter_params() {
            let value = param.value();
            param.set_leaf(value);
        }
        let hook = Dropping { layers: vec![0], ran: RefCell::default() };
        let tape = model.hidden(&batch(), None, &hook).sum().backward();
        let with_grad: Vec<(String, bool)> =
            model.adapter_params().iter().map(|p| (p.name.clone(), p.grad(&tape).is_some())).collect();
        for (name, has) in with_grad {
            assert_eq!(has, !name.contains("layers.0.mlp"), "{name}");
        }
    });
}

#[test]
fn masked_channels_reach_neither_the_base_nor_the_adapter_of_the_down_projection() {
    on_every_device(|device| {
        let mut model = tiny::decoder(1, device);
        Adapter::new(&adapter(&["down_proj"])).attach_new(&mut model, 1).unwrap();
        let down = &mut model.layers[0].ffn.down_proj;
        let lora = down.lora.as_mut().unwrap();
        lora.b = Tensor::ones(lora.b.dims(), device);
        let zeros = Tensor::zeros([2, 24], device);
        assert!(values(down.forward(zeros, 0, &Untouched)).iter().all(|v| *v == 0.0));
    });
}

/// The closed-form loss against Burn's autodiff over full logits.
#[test]
fn loss_and_gradients_equal_autodiff() {
    on_every_device(|device| {
        let device = &device.clone().autodiff();
        for cap in [None, Some(2.0)] {
            loss_equals_autodiff(device, cap);
        }
    });
}

/// `cap` is Gemma's soft cap of the logits.
fn loss_equals_autodiff(device: &Device, cap: Option<f64>) {
    let mut model = tiny::decoder(1, device);
    model.config.final_logit_softcapping = cap;
    let mut random = rng::stream(1, "hidden", &[]);
    let n = 600; // more than one chunk
    let hidden: Vec<f32> = (0..n * 16).map(|_| random.normal() as f32).collect();
    let targets: Vec<i32> = (0..n).map(|i| if i % 7 == 0 { -100 } else { random.below(40) as i32 }).collect();
    let leaf = Tensor::<1>::from_floats(hidden.as_slice(), device).reshape([n, 16]).detach().require_grad();
    let got = cross_entropy(&model, &leaf.clone().inner(), &targets, 10.0, true);

    let head = Tensor::<2>::from_inner(model.head().clone().inner()).require_grad();
    let logits = leaf.clone().matmul(head.clone().transpose());
    let logits = cap.map_or(logits.clone(), |cap| logits.div_scalar(cap).tanh().mul_scalar(cap));
    let log_p = burn::tensor::activation::log_softmax(logits, 1);
    let mut weights = vec![0.0f32; n * 40];
    for (row, target) in targets.iter().enumerate().filter(|(_, target)| **target != -100) {
        weights[row * 40 + *target as usize] = -1.0;
    }
    let picked = (log_p * Tensor::<1>::from_floats(weights.as_slice(), device).reshape([n, 40])).sum();
    let sum: f32 = picked.clone().into_scalar();
    let tape = picked.div_scalar(10.0).backward();
    assert!((f64::from(sum) - got.sum).abs() < 1e-2, "{sum} != {}", got.sum);
    let close = |a: Tensor<2>, b: Tensor<2>, what| {
        let (a, b) = (values(a.inner()), values(b));
        let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-5, "{what}: {worst}");
    };
    close(leaf.grad(&tape).unwrap(), got.hidden_grad, "hidden");
    close(head.grad(&tape).unwrap(), got.head_grad.unwrap(), "head");
}

pub(crate) fn rows() -> TokenSet {
    let mut set = TokenSet::new();
    let mut random = rng::stream(9, "rows", &[]);
    for row in 0..16 {
        let length = 5 + row % 6;
        let ids: Vec<i32> = (0..length).map(|i| (row * 3 + i * i) % 40).collect();
        let labels: Vec<i32> = ids.iter().map(|id| if random.below(4) == 0 { -100 } else { *id }).collect();
        set.push(&ids, &labels);
    }
    set
}

fn train(
    subject: Subject,
    params: &OptimizerParams,
    tokens: &TokenSet,
    device: &Device,
) -> (Decoder, Vec<Update>) {
    train_on(&tiny::config(2), subject, params, tokens, device)
}

fn train_on(
    config: &ModelConfig,
    subject: Subject,
    params: &OptimizerParams,
    tokens: &TokenSet,
    device: &Device,
) -> (Decoder, Vec<Update>) {
    let mut model = tiny::decoder_of(config, &device.clone().autodiff());
    if let Subject::Adapter { .. } = subject {
        Adapter::new(&adapter(&["q_proj", "v_proj", "up_proj", "down_proj"]))
            .attach_new(&mut model, 5)
            .unwrap();
    }
    let trainer = Trainer { tokens, held_out: None, params, subject, seed: 5, checkpoints: None };
    let mut updates = Vec::new();
    trainer
        .run(&mut model, &mut |update: &Update| {
            updates.push(update.clone());
            Ok(())
        })
        .unwrap();
    (model, updates)
}

pub(crate) fn weights(model: &mut Decoder) -> Vec<f32> {
    let base = model.params().into_iter().map(|p| p.value()).collect::<Vec<_>>();
    let adapter = model.adapter_params().into_iter().map(|p| p.value()).collect::<Vec<_>>();
    base.into_iter().chain(adapter).flat_map(values).collect()
}

fn quick() -> OptimizerParams {
    OptimizerParams {
        learning_rate: 1e-2,
        warmup_ratio: 0.0,
        max_steps: Some(30),
        per_device_train_batch_size: 8,
        ..OptimizerParams::default()
    }
}

#[test]
fn training_is_a_function_of_its_seed() {
    on_every_device(|device| {
        let subject = Subject::Adapter { trans_peft: rates(0.3, 0.2), lora_dropout: 0.1 };
        let (mut one, updates) = train(subject.clone(), &quick(), &rows(), device);
        let (mut two, _) = train(subject, &quick(), &rows(), device);
        assert_eq!(weights(&mut one), weights(&mut two));
        assert!(updates.iter().any(|update| update.dropped_ffns > 0));
    });
}

#[test]
fn gradient_checkpointing_changes_no_bit() {
    on_every_device(|device| {
        let adapter = Subject::Adapter { trans_peft: rates(0.3, 0.2), lora_dropout: 0.1 };
        // Wide enough that sums in other orders would differ.
        let wide = ModelConfig { intermediate_size: 1100, ..tiny::config(2) };
        for (config, subject) in
            [(&wide, adapter.clone()), (&wide, Subject::Everything), (&tiny::config(2), adapter)]
        {
            let recomputed = OptimizerParams { gradient_checkpointing: true, ..quick() };
            let (mut kept, updates) = train_on(config, subject.clone(), &quick(), &rows(), device);
            let (mut again, others) = train_on(config, subject, &recomputed, &rows(), device);
            assert_eq!(weights(&mut kept), weights(&mut again));
            for (a, b) in updates.iter().zip(&others) {
                assert_eq!((a.loss, a.grad_norm, a.dropped_ffns), (b.loss, b.grad_norm, b.dropped_ffns));
            }
        }
    });
}

#[test]
fn an_adapter_learns_while_its_base_stays_frozen() {
    on_every_device(|device| {
        let plain = Subject::Adapter { trans_peft: rates(0.0, 0.0), lora_dropout: 0.0 };
        let params = OptimizerParams { max_steps: Some(120), ..quick() };
        let (mut model, updates) = train(plain, &params, &rows(), device);
        let (first, last) = (updates[0].loss, updates.last().unwrap().loss);
        assert!(last < 0.5 * first, "{first} -> {last}");
        let base =
            |model: &mut Decoder| model.params().into_iter().map(|p| values(p.value())).collect::<Vec<_>>();
        assert_eq!(base(&mut model), base(&mut tiny::decoder(2, device)));
    });
}

#[test]
fn pretraining_moves_every_parameter() {
    on_every_device(|device| {
        let (mut model, updates) = train(Subject::Everything, &quick(), &rows(), device);
        assert!(updates.last().unwrap().loss < updates[0].loss);
        let mut before = tiny::decoder(2, device);
        for (after, before) in model.params().into_iter().zip(before.params()) {
            assert_ne!(values(after.value()), values(before.value()), "{}", after.name);
        }
    });
}

/// The loss is the mean over the label tokens of the whole optimizer step, so how the step is cut
/// into micro-batches does not matter.
#[test]
fn accumulation_equals_one_large_batch() {
    on_every_device(|device| {
        for subject in
            [Subject::Adapter { trans_peft: rates(0.0, 0.0), lora_dropout: 0.0 }, Subject::Everything]
        {
            let one = OptimizerParams { max_steps: Some(3), learning_rate: 1e-3, ..quick() };
            let cut = OptimizerParams {
                per_device_train_batch_size: 2,
                gradient_accumulation_steps: 4,
                ..one.clone()
            };
            let (_, whole) = train(subject.clone(), &one, &rows(), device);
            let (_, cut) = train(subject, &cut, &rows(), device);
            for (whole, cut) in whole.iter().zip(&cut) {
                assert!((whole.loss - cut.loss).abs() < 1e-5, "{} != {}", whole.loss, cut.loss);
                let ratio = whole.grad_norm / cut.grad_norm;
                assert!(
                    (ratio - 1.0).abs() < 1e-4,
                    "gradient norms {} and {}",
                    whole.grad_norm,
                    cut.grad_norm
                );
            }
        }
    });
}
