//! Every operation and its gradients against the plain formula under Burn's autodiff, on every
//! device; and the portable operations on the CPU, which has kernels instead.

use burn::{
    backend::Flex,
    tensor::{
        DType, Device, Int, Tensor, TensorData,
        activation::{self, silu, softmax},
    },
};
use burn_flex::FlexTensor;

use super::*;
use crate::device;

type Values = Vec<f32>;

#[cfg(feature = "libtorch")]
thread_local! {
    /// Whether this thread leaves to LibTorch what our kernels could do on its tensors, as it is on a GPU.
    pub(super) static LEFT_TO_LIBTORCH: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn values(seed: u64, count: usize) -> Values {
    let mut random = crate::rng::stream(seed, "kernels", &[]);
    (0..count).map(|_| random.unit_f32() * 4.0 - 2.0).collect()
}

fn data<const D: usize>(seed: usize, shape: [usize; D]) -> TensorData {
    TensorData::new(values(seed as u64, shape.iter().product()), shape)
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Values {
    tensor.into_data().try_to_vec().unwrap()
}

fn close(what: &str, ours: &[f32], plain: &[f32]) {
    assert_eq!(ours.len(), plain.len(), "{what}");
    let scale = plain.iter().fold(1.0_f32, |most, x| most.max(x.abs()));
    let furthest = ours.iter().zip(plain).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(furthest < 1e-5 * scale, "{what}: {furthest} of {scale}");
}

/// The output of a function of some inputs, and the gradients of a weighted sum of it.
fn passes<const N: usize>(
    device: &Device,
    shapes: [[usize; 2]; N],
    f: &dyn Fn([Tensor<2>; N]) -> Tensor<2>,
) -> (Values, [Values; N]) {
    let mut seed = 0;
    let inputs = shapes.map(|shape| {
        seed += 1;
        Tensor::<2>::from_data(data(seed, shape), device).require_grad()
    });
    let out = f(inputs.clone());
    let weights = Tensor::from_data(data(100, out.dims()), &device.clone().inner());
    let tape = (out.clone() * Tensor::from_inner(weights)).sum().backward();
    (numbers(out.inner()), inputs.map(|input| numbers(input.grad(&tape).unwrap())))
}

/// The same from an operation and from the plain formula, on every device.
fn agree<const N: usize>(
    what: &str,
    shapes: [[usize; 2]; N],
    ours: impl Fn([Tensor<2>; N]) -> Tensor<2>,
    plain: impl Fn([Tensor<2>; N]) -> Tensor<2>,
) -> (Values, [Values; N]) {
    let mut found = None;
    for name in device::present() {
        let device = device::resolve(name).unwrap().autodiff();
        let plain = passes(&device, shapes, &plain);
        let check = |name: &str| {
            let ours = passes(&device, shapes, &ours);
            close(&format!("{what} on {name}"), &ours.0, &plain.0);
            for (input, (ours, plain)) in ours.1.iter().zip(&plain.1).enumerate() {
                close(&format!("{what} on {name}, gradient of input {input}"), ours, plain);
            }
        };
        check(&name.to_string());
        #[cfg(feature = "libtorch")]
        if name == crate::params::DeviceName::LibTorch {
            LEFT_TO_LIBTORCH.set(true);
            check("libtorch's own operations");
            LEFT_TO_LIBTORCH.set(false);
        }
        found = Some(plain);
    }
    found.expect("there is always a CPU")
}

fn flex(seed: usize, shape: [usize; 2]) -> FlexTensor {
    FlexTensor::from_data(data(seed, shape))
}

fn read(tensor: FlexTensor) -> Values {
    tensor.into_data().try_to_vec().unwrap()
}

/// Attention of each row and head by itself.
fn plain_attention([q, k, v]: [Tensor<2>; 3], rows: &Segments) -> Tensor<2> {
    let (width, group) = (rows.head_dim, rows.heads / rows.kv_heads);
    let mut start = 0;
    let mut parts = Vec::new();
    for &n in &rows.lengths {
        let heads = (0..rows.heads).map(|head| {
            let part =
                |all: &Tensor<2>, head: usize| all.clone().narrow(0, start, n).narrow(1, head * width, width);
            let scores = part(&q, head).matmul(part(&k, head / group).transpose()) * rows.scale;
            let scores = match rows.softcap {
                Some(cap) => (scores / cap).tanh() * cap,
                None => scores,
            };
            let hidden = (0..n * n).map(|at| {
                let (query, key) = (at / n, at % n);
                let sees = key <= query && rows.window.is_none_or(|window| query - key < window);
                if sees { 0.0 } else { -1e9_f32 }
            });
            let mask = TensorData::new(hidden.collect::<Vec<_>>(), [n, n]);
            softmax(scores + Tensor::from_data(mask, &q.device()), 1).matmul(part(&v, head / group))
        });
        parts.push(Tensor::cat(heads.collect(), 1));
        start += n;
    }
    Tensor::cat(parts, 0)
}

#[test]
fn attention() {
    for lengths in [vec![1], vec![5, 1, 130, 64, 3]] {
        for (window, softcap) in [(None, None), (Some(7), None), (None, Some(1.5)), (Some(70), Some(3.0))] {
            let (lengths, tokens) = (lengths.clone(), lengths.iter().sum::<usize>());
            let rows = Segments { lengths, heads: 6, kv_heads: 2, head_dim: 8, scale: 0.35, softcap, window };
            let shapes = [[tokens, 48], [tokens, 16], [tokens, 16]];
            let ours = |[q, k, v]: [Tensor<2>; 3]| super::attention(q, k, v, rows.clone());
            let plain = agree("attention", shapes, ours, |inputs| plain_attention(inputs, &rows));

            let inputs = [flex(1, shapes[0]), flex(2, shapes[1]), flex(3, shapes[2])];
            let out = read(portable::attention_forward::<Flex>(inputs.clone(), &rows));
            close("portable attention", &out, &plain.0);
            let found = portable::attention_backward::<Flex>(inputs, flex(100, shapes[0]), &rows);
            for (ours, plain) in found.into_iter().zip(&plain.1) {
                close("portable attention, gradient", &read(ours), plain);
            }
        }
    }
}

#[test]
fn swiglu() {
    let shape = [300, 70];
    let plain =
        agree("swiglu", [shape; 2], |[gate, up]| super::swiglu(gate, up), |[gate, up]| silu(gate) * up);
    let inputs = || [flex(1, shape), flex(2, shape)];
    close("portable swiglu", &read(portable::swiglu_forward::<Flex>(inputs())), &plain.0);
    let found = portable::swiglu_backward::<Flex>(inputs(), flex(100, shape));
    for (ours, plain) in found.into_iter().zip(&plain.1) {
        close("portable swiglu, gradient", &read(ours), plain);
    }
}

#[test]
fn linear() {
    let shapes = [[37, 20], [50, 20]];
    agree("linear", shapes, |[x, w]| super::linear(x, w, Products::Joint), |[x, w]| x.matmul(w.transpose()));
    // A transposed input is not dense.
    let ours = |[x, w]: [Tensor<2>; 2]| super::linear(x.transpose(), w, Products::Joint);
    agree("linear of a view", [[20, 37], [50, 20]], ours, |[x, w]| x.transpose().matmul(w.transpose()));
}

#[test]
fn adapted_linear() {
    let weight = |like: &Tensor<2>| Tensor::<2>::from_data(data(50, [30, 20]), &like.device());
    let shapes = [[37, 20], [4, 20], [30, 4]];
    for dropout in [None, Some(Dropout::new(crate::rng::stream(1, "dropout", &[]), 0.3))] {
        let update = Update { scale: 0.7, dropout: dropout.clone(), products: Products::Joint };
        let ours =
            |[x, a, b]: [Tensor<2>; 3]| super::adapted_linear(x.clone(), weight(&x), [a, b], update.clone());
        let formula = |[x, a, b]: [Tensor<2>; 3]| {
            let into = match &dropout {
                Some(dropout) => dropout.apply(x.clone()),
                None => x.clone(),
            };
            let base = x.clone().matmul(weight(&x).transpose());
            base + into.matmul(a.transpose()).matmul(b.transpose()) * 0.7
        };
        let plain = agree("adapted linear", shapes, ours, formula);

        let [x, a, b, weight] = [flex(1, [37, 20]), flex(2, [4, 20]), flex(3, [30, 4]), flex(50, [30, 20])];
        let inputs = [x.clone(), weight.clone(), a.clone(), b.clone()];
        let [out, low] = portable::adapted_forward::<Flex>(inputs, &update);
        close("portable adapted linear", &read(out), &plain.0);
        let inputs = [flex(100, [37, 30]), x, low, weight, a, b];
        for (ours, plain) in portable::adapted_backward::<Flex>(inputs, &update).into_iter().zip(&plain.1) {
            close("portable adapted linear, gradient", &read(ours), plain);
        }
    }
}

#[test]
fn a_token_alone_is_a_token_among_others() {
    let device = device::resolve(crate::params::DeviceName::Flex).unwrap();
    let load = |seed, shape| Tensor::<2>::from_data(data(seed, shape), &device);
    let (x, weight, a, b) = (load(1, [37, 20]), load(2, [30, 20]), load(3, [4, 20]), load(4, [30, 4]));
    let of = |x: Tensor<2>| {
        let pair = [a.clone(), b.clone()];
        let update = Update { scale: 0.7, dropout: None, products: Products::Alone };
        let linear = super::linear(x.clone(), weight.clone(), Products::Alone);
        [linear, super::adapted_linear(x, weight.clone(), pair, update)]
    };
    let all = of(x.clone()).map(numbers);
    for token in 0..37 {
        for (alone, all) in of(x.clone().narrow(0, token, 1)).map(numbers).iter().zip(&all) {
            assert_eq!(*alone, all[token * 30..(token + 1) * 30], "token {token}");
        }
    }
    let joint = numbers(super::linear(x, weight, Products::Joint));
    close("joint", &joint, &all[0]);
}

/// A base in bf16 under an adapter in f32: as in f32, but for the rounding of what is in bf16.
#[test]
fn adapted_linear_of_a_bf16_base() {
    let dropout = Some(Dropout::new(crate::rng::stream(1, "dropout", &[]), 0.3));
    let f = |dtype: DType| {
        let update = Update { scale: 0.7, dropout: dropout.clone(), products: Products::Joint };
        move |[x, a, b]: [Tensor<2>; 3]| {
            let weight = Tensor::<2>::from_data(data(50, [30, 20]), &x.device());
            let (x, weight) = (x.cast(dtype), weight.cast(dtype));
            super::adapted_linear(x, weight, [a, b], update.clone()).cast(DType::F32)
        }
    };
    for name in device::present() {
        let device = device::resolve(name).unwrap().autodiff();
        let shapes = [[37, 20], [4, 20], [30, 4]];
        let in_f32 = passes(&device, shapes, &f(DType::F32));
        let in_bf16 = passes(&device, shapes, &f(DType::BF16));
        let pairs = [(&in_f32.0, &in_bf16.0)].into_iter().chain(in_f32.1.iter().zip(&in_bf16.1));
        for (exact, rounded) in pairs {
            let scale = exact.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            let furthest = exact.iter().zip(rounded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(furthest < 0.02 * scale, "{name}: {furthest} of {scale}");
            assert!(furthest > 0.0, "{name}: nothing was rounded");
        }
    }
}

#[test]
fn rms_norm() {
    for width in [1, 16, 50] {
        let shapes = [[33, width], [1, width]];
        let flat = |w: Tensor<2>| w.reshape([width]);
        let ours = |[x, w]: [Tensor<2>; 2]| super::rms_norm(x, flat(w), 1e-5);
        let formula = |[x, w]: [Tensor<2>; 2]| {
            let mean = x.clone().square().mean_dim(1);
            x * (mean + 1e-5).sqrt().recip() * w
        };
        let plain = agree("rms norm", shapes, ours, formula);
        let weight = || FlexTensor::from_data(data(2, [width]));
        let out = portable::rms_norm_forward::<Flex>(flex(1, shapes[0]), weight(), 1e-5);
        close("portable rms norm", &read(out), &plain.0);
        let grad = flex(100, shapes[0]);
        let grad = portable::rms_norm_backward::<Flex>(flex(1, shapes[0]), weight(), grad, 1e-5);
        close("portable rms norm, gradient", &read(grad), &plain.1[0]);
    }
}

#[test]
fn rotate() {
    let (tokens, heads, half) = (35, 3, 4);
    let shape = [tokens, heads * 2 * half];
    for interleaved in [false, true] {
        let angles =
            |device: &Device| [21, 22].map(|seed| Tensor::<2>::from_data(data(seed, [tokens, half]), device));
        let ours = |[x]: [Tensor<2>; 1]| {
            let angles = angles(&x.device());
            super::rotate(x, angles, interleaved)
        };
        let formula = |[x]: [Tensor<2>; 1]| {
            let [cos, sin] = angles(&x.device()).map(|angle| angle.reshape([tokens, 1, half]));
            let split: Tensor<4> = match interleaved {
                true => x.reshape([tokens, heads, half, 2]),
                false => x.reshape([tokens, heads, 2, half]).swap_dims(2, 3),
            };
            let member = |at: usize| split.clone().narrow(3, at, 1).reshape([tokens, heads, half]);
            let (first, second): (Tensor<3>, Tensor<3>) = (member(0), member(1));
            let turned =
                [first.clone() * cos.clone() - second.clone() * sin.clone(), second * cos + first * sin];
            let both: Tensor<4> = Tensor::stack(turned.to_vec(), 3);
            let both = if interleaved { both } else { both.swap_dims(2, 3) };
            both.reshape(shape)
        };
        let plain = agree("rotation", [shape], ours, formula);
        let angles = [flex(21, [tokens, half]), flex(22, [tokens, half])];
        let turn = Turn { interleaved, back: false };
        let out = portable::turned::<Flex>(flex(1, shape), angles.clone(), turn);
        close("portable rotation", &read(out), &plain.0);
        let back = Turn { back: true, ..turn };
        let grad = portable::turned::<Flex>(flex(100, shape), angles, back);
        close("portable rotation, gradient", &read(grad), &plain.1[0]);
    }
}

#[test]
fn softmax_and_its_error() {
    let shape = [9, 53];
    let targets: Vec<usize> = (0..9).map(|row| row * 5).collect();
    for name in device::present() {
        let device = device::resolve(name).unwrap();
        let logits = || Tensor::<2>::from_data(data(1, shape), &device) * 10.0;
        let log_p = log_softmax(logits());
        let plain = activation::log_softmax(logits(), 1);
        close("log softmax", &numbers(log_p.clone()), &numbers(plain.clone()));
        let one_hot = Tensor::<1, Int>::from_data(
            TensorData::new(targets.iter().map(|target| *target as i32).collect::<Vec<_>>(), [9]),
            &device,
        );
        let error = (plain.exp() - one_hot.one_hot::<2>(53).float()) / 4.0;
        close("error", &numbers(softmax_error(log_p, targets.clone(), 4.0)), &numbers(error));
    }
    let log_p = Flex::log_probabilities(flex(1, shape));
    let ours = read(portable::probability_error::<Flex>(log_p.clone(), &targets, 4.0));
    close("portable error", &ours, &read(Flex::probability_error(log_p, &targets, 4.0)));
}

/// The last tokens of each row, the earlier ones lying in a cache, those of the second row partly in the
/// slot of another; the third row is short enough to be computed with the others, or too long.
#[test]
fn attention_to_a_cache() {
    for third in [1, 70, 600] {
        for (window, softcap) in [(None, None), (Some(7), None), (Some(40), Some(1.5))] {
            attention_to_a_cache_of(third, window, softcap);
        }
    }
}

fn attention_to_a_cache_of(third: usize, window: Option<usize>, softcap: Option<f32>) {
    let (heads, kv_heads, head_dim, capacity) = (6, 2, 8, third + 30);
    let shape =
        |lengths: Vec<usize>| Segments { lengths, heads, kv_heads, head_dim, scale: 0.35, softcap, window };
    // Slot 0 holds 20 tokens; one row goes on in it, another in slot 1 behind them, one is new.
    let places = |shared: bool, past: [usize; 3]| -> Arc<Places> {
        let second = if shared { vec![(0, 20)] } else { Vec::new() };
        let places = [(Vec::new(), 0), (second, 1), (Vec::new(), 2)];
        let places = places.into_iter().zip(past);
        Places::new(places.map(|((shared, slot), past)| Place { shared, slot, past }).collect())
    };
    let passes = [
        CachedRows { shape: shape(vec![20, 0, 0]), places: places(false, [0, 0, 0]) },
        CachedRows { shape: shape(vec![0, 5, 0]), places: places(true, [0, 0, 0]) },
        CachedRows { shape: shape(vec![1, 3, third]), places: places(true, [20, 5, 0]) },
    ];
    let tokens = [20, 5, 4 + third];
    let inputs = |pass: usize| {
        let seed = 10 * pass;
        let widths = [heads, kv_heads, kv_heads].map(|heads| heads * head_dim);
        [0, 1, 2].map(|at| flex(seed + at, [tokens[pass], widths[at]]))
    };
    let zeros = || FlexTensor::from_data(TensorData::zeros::<f32, _>([3, kv_heads, capacity, head_dim]));
    let (mut ours, mut plain) = ([zeros(), zeros()], [zeros(), zeros()]);
    let mut last = None;
    for (pass, rows) in passes.iter().enumerate() {
        let [q, k, v] = inputs(pass);
        let [keys, values] = ours;
        ours = [Flex::appended(keys, k.clone(), rows), Flex::appended(values, v.clone(), rows)];
        let [keys, values] = plain;
        plain = [
            cached_portable::append::<Flex>(keys, k, rows),
            cached_portable::append::<Flex>(values, v, rows),
        ];
        let found = read(Flex::attended(q.clone(), ours.clone(), rows));
        if rows.shape.lengths.iter().all(|length| *length > 0) {
            close(
                "portable, cached",
                &read(cached_portable::attention::<Flex>(q, plain.clone(), rows)),
                &found,
            );
        }
        last = Some(found);
    }
    // The same rows as wholes.
    let all: [Values; 3] = std::array::from_fn(|at| {
        let parts = [0, 1, 2].map(|pass| read(inputs(pass)[at].clone()));
        let width = parts[0].len() / tokens[0];
        let rows = [&parts[0][..], &parts[2][..width], &parts[0][..], &parts[1][..], &parts[2][width..]];
        rows.concat()
    });
    let total = 21 + 28 + third;
    let [q, k, v] = all
        .map(|values| FlexTensor::from_data(TensorData::new(values.clone(), [total, values.len() / total])));
    let whole = read(Flex::attention_forward([q, k, v], &shape(vec![21, 28, third])));
    let width = heads * head_dim;
    let expected = [&whole[20 * width..21 * width], &whole[(21 + 25) * width..]].concat();
    close("cached", &last.unwrap(), &expected);
}
