//! The passes on LibTorch's tensors in our own kernels, where these can reach the values: on the CPU. LibTorch's
//! own go through memory once for each operation, and its products in f32 leave much of a CPU unused that is not
//! Intel's. Kernels compute in f32; the results are in the first tensor's format. Products of what flows in half
//! precision are LibTorch's: it flows so only where the processor has units for them.

use half::{bf16, f16};
use tch::{Device, Kind, Tensor};

#[cfg(test)]
use super::tests;
use super::{
    CachedRows, Segments, Turn, Update, attention, cached_attention, libtorch,
    linear::{self, Sizes},
    norm, rotate,
    skinny::Weight,
    softmax, swiglu,
};

pub(super) fn attention_forward(inputs: [&Tensor; 3], rows: &Segments) -> Option<Tensor> {
    let shape = shape_of(inputs[0]);
    let [out] = on_values(inputs, [shape], |inputs, [out]| attention::forward(rows, inputs, out))?;
    Some(out)
}

/// The last input is the output's gradient.
pub(super) fn attention_backward(inputs: [&Tensor; 4], rows: &Segments) -> Option<[Tensor; 3]> {
    let [q, k, v, _] = inputs;
    let shapes = [q, k, v].map(shape_of);
    on_values(inputs, shapes, |inputs, grads| attention::backward(rows, inputs, grads))
}

pub(super) fn swiglu_forward(inputs: [&Tensor; 2]) -> Option<Tensor> {
    let [out] = on_values(inputs, [shape_of(inputs[0])], |inputs, [out]| swiglu::forward(inputs, out))?;
    Some(out)
}

/// The last input is the output's gradient.
pub(super) fn swiglu_backward(inputs: [&Tensor; 3]) -> Option<[Tensor; 2]> {
    on_values(inputs, [shape_of(inputs[0]); 2], swiglu::backward)
}

pub(super) fn rms_norm_forward(inputs: [&Tensor; 2], eps: f32) -> Option<Tensor> {
    let [out] = on_values(inputs, [shape_of(inputs[0])], |inputs, [out]| norm::forward(inputs, eps, out))?;
    Some(out)
}

/// The last input is the output's gradient.
pub(super) fn rms_norm_backward(inputs: [&Tensor; 3], eps: f32) -> Option<Tensor> {
    let [out] = on_values(inputs, [shape_of(inputs[0])], |inputs, [out]| norm::backward(inputs, eps, out))?;
    Some(out)
}

pub(super) fn turned(inputs: [&Tensor; 3], turn: Turn) -> Option<Tensor> {
    let (shape, [_, half]) = (shape_of(inputs[0]), shape_of(inputs[1]));
    let [out] = on_values(inputs, [shape], |inputs, [out]| rotate::rotate(inputs, half, turn, out))?;
    Some(out)
}

pub(super) fn log_probabilities(logits: &Tensor) -> Option<Tensor> {
    let shape = shape_of(logits);
    let [out] = on_values([logits], [shape], |[logits], [out]| softmax::log_softmax(logits, shape[1], out))?;
    Some(out)
}

/// The queries, and the keys and values of a cache.
pub(super) fn attended(inputs: [&Tensor; 3], rows: &CachedRows) -> Option<Tensor> {
    let (shape, capacity) = (shape_of(inputs[0]), inputs[1].size()[2] as usize);
    let kernel = |inputs: [&[f32]; 3], [out]: [&mut [f32]; 1]| {
        cached_attention::forward(rows, capacity, inputs, out);
    };
    let [out] = on_values(inputs, [shape], kernel)?;
    Some(out)
}

pub(super) fn linear_forward(inputs: [&Tensor; 2]) -> Option<Tensor> {
    let sizes = sizes(in_f32(inputs[0])?, inputs[1], 0);
    let shape = [sizes.tokens, sizes.out];
    let [y] = on_values(inputs, [shape], |inputs, [y]| linear::forward(sizes, inputs, y))?;
    Some(y)
}

/// Each token by itself. A weight in half precision is read as it is.
pub(super) fn linear_alone([x, weight]: [&Tensor; 2]) -> Option<Tensor> {
    let sizes = sizes(in_f32(x)?, weight, 0);
    let [y] = on_values([x], [[sizes.tokens, sizes.out]], |[x], [y]| alone(sizes, x, weight, y))?;
    Some(y)
}

/// From the output's gradient and the weight.
pub(super) fn linear_backward(inputs: [&Tensor; 2]) -> Option<Tensor> {
    let sizes = sizes(in_f32(inputs[0])?, inputs[1], 0);
    let shape = [sizes.tokens, sizes.into];
    let [x_grad] = on_values(inputs, [shape], |inputs, [x_grad]| linear::backward(sizes, inputs, x_grad))?;
    Some(x_grad)
}

pub(super) fn adapted_forward([x, weight, a, b]: [&Tensor; 4], update: &Update) -> Option<[Tensor; 2]> {
    let dense = reached([x, a, b])?;
    let sizes = sizes(x, weight, shape_of(a)[0]);
    let y = linear_forward([x, weight]).unwrap_or_else(|| libtorch::linear_forward(x, weight));
    let (mut y, mut low) = (y.to_kind(Kind::Float), new([sizes.tokens, sizes.rank]));
    let outputs = [values_mut(&mut y), values_mut(&mut low)];
    linear::adapt(sizes, update, dense.each_ref().map(values), outputs);
    Some([y.to_kind(x.kind()), low])
}

/// Each token by itself.
pub(super) fn adapted_alone([x, weight, a, b]: [&Tensor; 4], update: &Update) -> Option<Tensor> {
    if update.dropout.is_some() {
        return None;
    }
    let sizes = sizes(in_f32(x)?, weight, shape_of(a)[0]);
    let kernel = |inputs: [&[f32]; 3], [y]: [&mut [f32]; 1]| {
        alone(sizes, inputs[0], weight, y);
        linear::adapt_alone(sizes, update.scale, inputs, y);
    };
    let [y] = on_values([x, a, b], [[sizes.tokens, sizes.out]], kernel)?;
    Some(y)
}

pub(super) fn adapted_backward(
    [grad, x, low, weight, a, b]: [&Tensor; 6],
    update: &Update,
) -> Option<[Tensor; 3]> {
    let dense = reached([grad, x, low, a, b])?;
    let sizes = sizes(grad, weight, shape_of(a)[0]);
    let x_grad = linear_backward([grad, weight]).unwrap_or_else(|| libtorch::linear_backward(grad, weight));
    let mut x_grad = x_grad.to_kind(Kind::Float);
    let [mut a_grad, mut b_grad] = [a, b].map(|matrix| new(shape_of(matrix)));
    let outputs = [values_mut(&mut x_grad), values_mut(&mut a_grad), values_mut(&mut b_grad)];
    linear::adapt_backward(sizes, update, dense.each_ref().map(values), outputs);
    Some([x_grad.to_kind(x.kind()), a_grad, b_grad])
}

fn shape_of(tensor: &Tensor) -> [usize; 2] {
    let size = tensor.size();
    [size[0] as usize, size[1] as usize]
}

fn sizes(tokens: &Tensor, weight: &Tensor, rank: usize) -> Sizes {
    let [out, into] = shape_of(weight);
    Sizes { tokens: shape_of(tokens)[0], into, out, rank }
}

/// The tensor, if it is in f32.
fn in_f32(tensor: &Tensor) -> Option<&Tensor> {
    Some(tensor).filter(|tensor| tensor.kind() == Kind::Float)
}

/// `x W^T`, each token by itself.
fn alone(sizes: Sizes, x: &[f32], weight: &Tensor, y: &mut [f32]) {
    let weight = weight.contiguous();
    match weight.kind() {
        Kind::BFloat16 => linear::alone(sizes, x, values::<bf16>(&weight), y),
        Kind::Half => linear::alone(sizes, x, values::<f16>(&weight), y),
        _ => linear::alone(sizes, x, values::<f32>(&weight), y),
    }
}

/// The tensors in f32, with their values one after another, if our kernels can read all of them.
fn reached<const N: usize>(tensors: [&Tensor; N]) -> Option<[Tensor; N]> {
    #[cfg(test)]
    if tests::LEFT_TO_LIBTORCH.get() {
        return None;
    }
    let all = tensors.iter().all(|tensor| tensor.device() == Device::Cpu);
    all.then(|| tensors.map(|tensor| tensor.to_kind(Kind::Float).contiguous()))
}

/// Runs a kernel over the values of tensors, and of results that it writes every value of, if it can reach them.
fn on_values<const N: usize, const M: usize>(
    tensors: [&Tensor; N],
    shapes: [[usize; 2]; M],
    kernel: impl FnOnce([&[f32]; N], [&mut [f32]; M]),
) -> Option<[Tensor; M]> {
    let dense = reached(tensors)?;
    let mut results = shapes.map(new);
    kernel(dense.each_ref().map(values), results.each_mut().map(values_mut));
    Some(results.map(|result| result.to_kind(tensors[0].kind())))
}

fn new(shape: [usize; 2]) -> Tensor {
    Tensor::zeros(shape.map(|length| length as i64), (Kind::Float, Device::Cpu))
}

/// The values of a dense tensor of this format on the CPU.
#[expect(unsafe_code, reason = "tch gives a pointer")]
fn values<T: Weight>(tensor: &Tensor) -> &[T] {
    let count = tensor.numel();
    assert!(
        tensor.is_contiguous()
            && tensor.device() == Device::Cpu
            && tensor.kind().elt_size_in_bytes() == size_of::<T>()
    );
    if count == 0 {
        return &[];
    }
    // SAFETY: a contiguous tensor of values of this size on the CPU (checked above) holds so many of them at this
    // address, for as long as it lives; every pattern of bits is a number. The operations of this program write
    // in place only to tensors that nobody else has.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), count) }
}

/// The values of a tensor that was just made.
#[expect(unsafe_code, reason = "tch gives a pointer")]
fn values_mut(tensor: &mut Tensor) -> &mut [f32] {
    let count = tensor.numel();
    assert!(tensor.is_contiguous() && tensor.device() == Device::Cpu && tensor.kind() == Kind::Float);
    if count == 0 {
        return &mut [];
    }
    // SAFETY: as above; and a new tensor shares its values with no other.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), count) }
}
