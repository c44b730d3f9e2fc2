//! The passes on LibTorch's tensors in our own kernels, where these can reach the values: in f32 on the CPU.
//! LibTorch's own go through memory once for each operation, and its products leave much of a CPU unused
//! that is not Intel's.

use tch::{Device, Kind, Tensor};

#[cfg(test)]
use super::tests;
use super::{
    CachedRows, Segments, Turn, Update, attention, cached_attention, linear, norm, rotate, softmax, swiglu,
};

pub(super) fn attention_forward(inputs: [&Tensor; 3], rows: &Segments) -> Option<Tensor> {
    let inputs = reached(inputs)?;
    let shape = shape_of(&inputs[0]);
    let [out] = computed(inputs, [shape], |inputs, [out]| attention::forward(rows, inputs, out));
    Some(out)
}

/// The last input is the output's gradient.
pub(super) fn attention_backward(inputs: [&Tensor; 4], rows: &Segments) -> Option<[Tensor; 3]> {
    let inputs = reached(inputs)?;
    let [q, k, v, _] = &inputs;
    let shapes = [q, k, v].map(shape_of);
    Some(computed(inputs, shapes, |inputs, grads| attention::backward(rows, inputs, grads)))
}

pub(super) fn swiglu_forward(inputs: [&Tensor; 2]) -> Option<Tensor> {
    let inputs = reached(inputs)?;
    let shape = shape_of(&inputs[0]);
    let [out] = computed(inputs, [shape], |inputs, [out]| swiglu::forward(inputs, out));
    Some(out)
}

/// The last input is the output's gradient.
pub(super) fn swiglu_backward(inputs: [&Tensor; 3]) -> Option<[Tensor; 2]> {
    let inputs = reached(inputs)?;
    let shape = shape_of(&inputs[0]);
    Some(computed(inputs, [shape; 2], swiglu::backward))
}

pub(super) fn rms_norm_forward(inputs: [&Tensor; 2], eps: f32) -> Option<Tensor> {
    let inputs = reached(inputs)?;
    let shape = shape_of(&inputs[0]);
    let [out] = computed(inputs, [shape], |inputs, [out]| norm::forward(inputs, eps, out));
    Some(out)
}

/// The last input is the output's gradient.
pub(super) fn rms_norm_backward(inputs: [&Tensor; 3], eps: f32) -> Option<Tensor> {
    let inputs = reached(inputs)?;
    let shape = shape_of(&inputs[0]);
    let [out] = computed(inputs, [shape], |inputs, [out]| norm::backward(inputs, eps, out));
    Some(out)
}

pub(super) fn turned(inputs: [&Tensor; 3], turn: Turn) -> Option<Tensor> {
    let inputs = reached(inputs)?;
    let (shape, [_, half]) = (shape_of(&inputs[0]), shape_of(&inputs[1]));
    let [out] = computed(inputs, [shape], |inputs, [out]| rotate::rotate(inputs, half, turn, out));
    Some(out)
}

pub(super) fn log_probabilities(logits: &Tensor) -> Option<Tensor> {
    let inputs = reached([logits])?;
    let shape = shape_of(&inputs[0]);
    let [out] = computed(inputs, [shape], |[logits], [out]| softmax::log_softmax(logits, shape[1], out));
    Some(out)
}

/// The queries, and the keys and values of a cache.
pub(super) fn attended(inputs: [&Tensor; 3], rows: &CachedRows) -> Option<Tensor> {
    let inputs = reached(inputs)?;
    let (shape, capacity) = (shape_of(&inputs[0]), inputs[1].size()[2] as usize);
    let kernel = |inputs: [&[f32]; 3], [out]: [&mut [f32]; 1]| {
        cached_attention::forward(rows, capacity, inputs, out);
    };
    let [out] = computed(inputs, [shape], kernel);
    Some(out)
}

pub(super) fn linear_forward(inputs: [&Tensor; 2]) -> Option<Tensor> {
    let inputs = reached(inputs)?;
    let sizes = sizes(&inputs[0], &inputs[1], 0);
    let [y] = computed(inputs, [[sizes.tokens, sizes.out]], |inputs, [y]| linear::forward(sizes, inputs, y));
    Some(y)
}

/// Each token by itself.
pub(super) fn linear_alone(inputs: [&Tensor; 2]) -> Option<Tensor> {
    let inputs = reached(inputs)?;
    let sizes = sizes(&inputs[0], &inputs[1], 0);
    let shapes = [[sizes.tokens, sizes.out]];
    let [y] = computed(inputs, shapes, |[x, weight], [y]| linear::alone(sizes, x, weight, y));
    Some(y)
}

pub(super) fn linear_backward(inputs: [&Tensor; 2]) -> Option<Tensor> {
    let inputs = reached(inputs)?;
    let sizes = sizes(&inputs[0], &inputs[1], 0);
    let shapes = [[sizes.tokens, sizes.into]];
    let [x_grad] = computed(inputs, shapes, |inputs, [x_grad]| linear::backward(sizes, inputs, x_grad));
    Some(x_grad)
}

pub(super) fn adapted_forward(inputs: [&Tensor; 4], update: &Update) -> Option<[Tensor; 2]> {
    let inputs = reached(inputs)?;
    let [x, weight, a, _] = &inputs;
    let sizes = sizes(x, weight, shape_of(a)[0]);
    let shapes = [[sizes.tokens, sizes.out], [sizes.tokens, sizes.rank]];
    Some(computed(inputs, shapes, |inputs, out| linear::forward_adapted(sizes, update, inputs, out)))
}

/// Each token by itself.
pub(super) fn adapted_alone(inputs: [&Tensor; 4], update: &Update) -> Option<Tensor> {
    if update.dropout.is_some() {
        return None;
    }
    let inputs = reached(inputs)?;
    let [x, weight, a, _] = &inputs;
    let sizes = sizes(x, weight, shape_of(a)[0]);
    let [y] = computed(inputs, [[sizes.tokens, sizes.out]], |[x, weight, a, b], [y]| {
        linear::alone(sizes, x, weight, y);
        linear::adapt_alone(sizes, update.scale, [x, a, b], y);
    });
    Some(y)
}

pub(super) fn adapted_backward(inputs: [&Tensor; 6], update: &Update) -> Option<[Tensor; 3]> {
    let inputs = reached(inputs)?;
    let [grad, x, _, weight, a, b] = &inputs;
    let sizes = sizes(grad, weight, shape_of(a)[0]);
    let shapes = [x, a, b].map(shape_of);
    Some(computed(inputs, shapes, |inputs, grads| linear::backward_adapted(sizes, update, inputs, grads)))
}

fn shape_of(tensor: &Tensor) -> [usize; 2] {
    let size = tensor.size();
    [size[0] as usize, size[1] as usize]
}

fn sizes(tokens: &Tensor, weight: &Tensor, rank: usize) -> linear::Sizes {
    let [out, into] = shape_of(weight);
    linear::Sizes { tokens: shape_of(tokens)[0], into, out, rank }
}

/// The tensors with their values one after another, if our kernels can read all of them.
fn reached<const N: usize>(tensors: [&Tensor; N]) -> Option<[Tensor; N]> {
    #[cfg(test)]
    if tests::LEFT_TO_LIBTORCH.get() {
        return None;
    }
    let all = tensors.iter().all(|tensor| tensor.device() == Device::Cpu && tensor.kind() == Kind::Float);
    all.then(|| tensors.map(Tensor::contiguous))
}

/// Runs a kernel over the values of tensors, and of results that it writes every value of.
fn computed<const N: usize, const M: usize>(
    tensors: [Tensor; N],
    shapes: [[usize; 2]; M],
    kernel: impl FnOnce([&[f32]; N], [&mut [f32]; M]),
) -> [Tensor; M] {
    let mut results =
        shapes.map(|shape| Tensor::zeros(shape.map(|length| length as i64), (Kind::Float, Device::Cpu)));
    kernel(tensors.each_ref().map(values), results.each_mut().map(values_mut));
    results
}

/// The values of a tensor that [`reached`] has found.
#[expect(unsafe_code, reason = "tch gives a pointer")]
fn values(tensor: &Tensor) -> &[f32] {
    let count = tensor.numel();
    if count == 0 {
        return &[];
    }
    // SAFETY: a contiguous tensor in f32 on the CPU holds that many initialised values at this address, for as
    // long as it lives. The operations of this program write in place only to tensors that nobody else has.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), count) }
}

/// The values of a tensor that was just made.
#[expect(unsafe_code, reason = "tch gives a pointer")]
fn values_mut(tensor: &mut Tensor) -> &mut [f32] {
    let count = tensor.numel();
    if count == 0 {
        return &mut [];
    }
    // SAFETY: as above; and a new tensor shares its values with no other.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), count) }
}
