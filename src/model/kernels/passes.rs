//! The two passes of each operation on one device: kernels of ours on the CPU, a backend's own
//! operations elsewhere.

use burn::{
    backend::{Backend, Flex, ops::FloatTensorOps as _, tensor::FloatTensor},
    tensor::{DType, TensorData},
};
use burn_flex::FlexTensor;
use half::{bf16, f16};

use super::{
    CachedRows, Copied, Segments, Turn, Update, attention, cached_attention, cached_portable, linear,
    matmul::zeros, norm, portable, rotate, softmax, swiglu,
};

/// Shapes are those of the functions of the same names in the parent module.
pub(crate) trait Passes: Backend {
    fn attention_forward(inputs: [FloatTensor<Self>; 3], rows: &Segments) -> FloatTensor<Self> {
        portable::attention_forward::<Self>(inputs, rows)
    }

    fn attention_backward(
        inputs: [FloatTensor<Self>; 3],
        grad: FloatTensor<Self>,
        rows: &Segments,
    ) -> [FloatTensor<Self>; 3] {
        portable::attention_backward::<Self>(inputs, grad, rows)
    }

    fn swiglu_forward(inputs: [FloatTensor<Self>; 2]) -> FloatTensor<Self> {
        portable::swiglu_forward::<Self>(inputs)
    }

    fn swiglu_backward(inputs: [FloatTensor<Self>; 2], grad: FloatTensor<Self>) -> [FloatTensor<Self>; 2] {
        portable::swiglu_backward::<Self>(inputs, grad)
    }

    fn linear_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::linear_forward::<Self>(x, weight)
    }

    /// The same, best made so that a token's result does not depend on the tokens beside it.
    fn linear_alone(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::linear_forward(x, weight)
    }

    /// The gradient of the input.
    fn linear_backward(weight: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::linear_backward::<Self>(weight, grad)
    }

    /// The output, and the dropped input's product with A.
    fn adapted_forward(inputs: [FloatTensor<Self>; 4], update: &Update) -> [FloatTensor<Self>; 2] {
        portable::adapted_forward::<Self>(inputs, update)
    }

    /// The output, likewise.
    fn adapted_alone(inputs: [FloatTensor<Self>; 4], update: &Update) -> FloatTensor<Self> {
        let [output, _] = Self::adapted_forward(inputs, update);
        output
    }

    /// Gradients of the input, of A and of B, from the output's gradient, the input, the dropped
    /// input's product with A, the weight, A and B.
    fn adapted_backward(inputs: [FloatTensor<Self>; 6], update: &Update) -> [FloatTensor<Self>; 3] {
        portable::adapted_backward::<Self>(inputs, update)
    }

    fn rms_norm_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        portable::rms_norm_forward::<Self>(x, weight, eps)
    }

    /// The gradient of the input.
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self> {
        portable::rms_norm_backward::<Self>(x, weight, grad, eps)
    }

    fn turned(x: FloatTensor<Self>, angles: [FloatTensor<Self>; 2], turn: Turn) -> FloatTensor<Self> {
        portable::turned::<Self>(x, angles, turn)
    }

    fn log_probabilities(logits: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::log_softmax(logits, 1)
    }

    /// The cache with the new tokens in it.
    fn appended(cache: FloatTensor<Self>, new: FloatTensor<Self>, rows: &CachedRows) -> FloatTensor<Self> {
        cached_portable::append::<Self>(cache, new, rows)
    }

    fn copied(cache: FloatTensor<Self>, copies: &[Copied]) -> FloatTensor<Self> {
        cached_portable::copy::<Self>(cache, copies)
    }

    fn attended(
        queries: FloatTensor<Self>,
        cache: [FloatTensor<Self>; 2],
        rows: &CachedRows,
    ) -> FloatTensor<Self> {
        cached_portable::attention::<Self>(queries, cache, rows)
    }

    fn probability_error(log_p: FloatTensor<Self>, targets: &[usize], denominator: f32) -> FloatTensor<Self> {
        portable::probability_error::<Self>(log_p, targets, denominator)
    }
}

fn cast(tensor: FlexTensor, dtype: DType) -> FlexTensor {
    match tensor.dtype() == dtype {
        true => tensor,
        false => Flex::float_cast(tensor, dtype.into()),
    }
}

/// Runs a kernel over the values of dense tensors, and of results that it writes every value of. Kernels compute in f32; the results are in the
/// first tensor's format.
fn on_values<const N: usize, const M: usize>(
    tensors: [FlexTensor; N],
    shapes: [[usize; 2]; M],
    kernel: impl FnOnce([&[f32]; N], [&mut [f32]; M]),
) -> [FlexTensor; M] {
    let dtype = tensors[0].dtype();
    let dense = tensors.map(|tensor| cast(tensor.to_contiguous(), DType::F32));
    let values = dense.each_ref().map(|tensor| tensor.as_slice::<f32>().expect("a dense tensor of f32"));
    let mut results = shapes.map(|shape| (zeros(shape[0] * shape[1]), shape));
    kernel(values, results.each_mut().map(|(values, _)| values.as_mut_slice()));
    results.map(|(values, shape)| cast(FlexTensor::from_data(TensorData::new(values, shape)), dtype))
}

fn shape_of(tensor: &FlexTensor) -> [usize; 2] {
    let shape = tensor.layout().shape();
    [shape[0], shape[1]]
}

fn sizes(tokens: usize, weight: &FlexTensor, rank: usize) -> linear::Sizes {
    let [out, into] = shape_of(weight);
    linear::Sizes { tokens, into, out, rank }
}

/// `x W^T`, each token by itself. A weight in half precision is read as it is.
fn alone(sizes: linear::Sizes, x: &[f32], weight: FlexTensor, y: &mut [f32]) {
    const DENSE: &str = "a dense tensor of this format";
    let weight = weight.to_contiguous();
    match weight.dtype() {
        DType::BF16 => linear::alone(sizes, x, weight.as_slice::<bf16>().expect(DENSE), y),
        DType::F16 => linear::alone(sizes, x, weight.as_slice::<f16>().expect(DENSE), y),
        _ => linear::alone(sizes, x, weight.as_slice::<f32>().expect(DENSE), y),
    }
}

impl Passes for Flex {
    fn attention_forward(inputs: [FlexTensor; 3], rows: &Segments) -> FlexTensor {
        let shape = shape_of(&inputs[0]);
        let [out] = on_values(inputs, [shape], |inputs, [out]| attention::forward(rows, inputs, out));
        out
    }

    fn attention_backward(inputs: [FlexTensor; 3], grad: FlexTensor, rows: &Segments) -> [FlexTensor; 3] {
        let shapes = inputs.each_ref().map(shape_of);
        let [q, k, v] = inputs;
        on_values([q, k, v, grad], shapes, |inputs, grads| attention::backward(rows, inputs, grads))
    }

    fn swiglu_forward(inputs: [FlexTensor; 2]) -> FlexTensor {
        let shape = shape_of(&inputs[0]);
        let [out] = on_values(inputs, [shape], |inputs, [out]| swiglu::forward(inputs, out));
        out
    }

    fn swiglu_backward([gate, up]: [FlexTensor; 2], grad: FlexTensor) -> [FlexTensor; 2] {
        let shapes = [shape_of(&gate), shape_of(&up)];
        on_values([gate, up, grad], shapes, swiglu::backward)
    }

    fn linear_forward(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let sizes = sizes(shape_of(&x)[0], &weight, 0);
        let kernel = |inputs: [&[f32]; 2], [y]: [&mut [f32]; 1]| linear::forward(sizes, inputs, y);
        let [y] = on_values([x, weight], [[sizes.tokens, sizes.out]], kernel);
        y
    }

    fn linear_alone(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let sizes = sizes(shape_of(&x)[0], &weight, 0);
        let [y] = on_values([x], [[sizes.tokens, sizes.out]], |[x], [y]| alone(sizes, x, weight, y));
        y
    }

    fn linear_backward(weight: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let sizes = sizes(shape_of(&grad)[0], &weight, 0);
        let kernel = |inputs: [&[f32]; 2], [x_grad]: [&mut [f32]; 1]| linear::backward(sizes, inputs, x_grad);
        let [x_grad] = on_values([grad, weight], [[sizes.tokens, sizes.into]], kernel);
        x_grad
    }

    fn adapted_forward(inputs: [FlexTensor; 4], update: &Update) -> [FlexTensor; 2] {
        let [x, weight, a, _] = &inputs;
        if x.dtype() != DType::F32 {
            return portable::adapted_forward::<Self>(inputs, update);
        }
        let sizes = sizes(shape_of(x)[0], weight, shape_of(a)[0]);
        let shapes = [[sizes.tokens, sizes.out], [sizes.tokens, sizes.rank]];
        on_values(inputs, shapes, |[x, weight, a, b], [y, low]| {
            linear::forward(sizes, [x, weight], y);
            linear::adapt(sizes, update, [x, a, b], [y, low]);
        })
    }

    fn adapted_alone(inputs: [FlexTensor; 4], update: &Update) -> FlexTensor {
        let [x, weight, a, _] = &inputs;
        if x.dtype() != DType::F32 || update.dropout.is_some() {
            let [output, _] = Self::adapted_forward(inputs, update);
            return output;
        }
        let sizes = sizes(shape_of(x)[0], weight, shape_of(a)[0]);
        let [x, weight, a, b] = inputs;
        let kernel = |inputs: [&[f32]; 3], [y]: [&mut [f32]; 1]| {
            alone(sizes, inputs[0], weight, y);
            linear::adapt_alone(sizes, update.scale, inputs, y);
        };
        let [y] = on_values([x, a, b], [[sizes.tokens, sizes.out]], kernel);
        y
    }

    fn adapted_backward(inputs: [FlexTensor; 6], update: &Update) -> [FlexTensor; 3] {
        let [grad, x, _, weight, a, b] = &inputs;
        if x.dtype() != DType::F32 {
            return portable::adapted_backward::<Self>(inputs, update);
        }
        let sizes = sizes(shape_of(grad)[0], weight, shape_of(a)[0]);
        let shapes = [x, a, b].map(shape_of);
        on_values(inputs, shapes, |[grad, x, low, weight, a, b], [x_grad, a_grad, b_grad]| {
            linear::backward(sizes, [grad, weight], x_grad);
            linear::adapt_backward(sizes, update, [grad, x, low, a, b], [x_grad, a_grad, b_grad]);
        })
    }

    fn rms_norm_forward(x: FlexTensor, weight: FlexTensor, eps: f32) -> FlexTensor {
        let shape = shape_of(&x);
        let [out] = on_values([x, weight], [shape], |inputs, [out]| norm::forward(inputs, eps, out));
        out
    }

    fn rms_norm_backward(x: FlexTensor, weight: FlexTensor, grad: FlexTensor, eps: f32) -> FlexTensor {
        let shape = shape_of(&x);
        let [out] = on_values([x, weight, grad], [shape], |inputs, [out]| norm::backward(inputs, eps, out));
        out
    }

    fn turned(x: FlexTensor, [cos, sin]: [FlexTensor; 2], turn: Turn) -> FlexTensor {
        let (shape, [_, half]) = (shape_of(&x), shape_of(&cos));
        let [out] =
            on_values([x, cos, sin], [shape], |inputs, [out]| rotate::rotate(inputs, half, turn, out));
        out
    }

    fn log_probabilities(logits: FlexTensor) -> FlexTensor {
        let shape = shape_of(&logits);
        let [out] =
            on_values([logits], [shape], |[logits], [out]| softmax::log_softmax(logits, shape[1], out));
        out
    }

    fn appended(mut cache: FlexTensor, new: FlexTensor, rows: &CachedRows) -> FlexTensor {
        let (capacity, new) = (cache.layout().shape()[2], new.to_contiguous());
        let new = new.as_slice().expect("a dense tensor of f32");
        cached_attention::append(cache.storage_mut(), capacity, new, rows);
        cache
    }

    fn copied(mut cache: FlexTensor, copies: &[Copied]) -> FlexTensor {
        let shape = cache.layout().shape();
        let dims = [shape[1], shape[2], shape[3]];
        cached_attention::copy(cache.storage_mut(), dims, copies);
        cache
    }

    fn attended(queries: FlexTensor, [keys, values]: [FlexTensor; 2], rows: &CachedRows) -> FlexTensor {
        let (shape, capacity) = (shape_of(&queries), keys.layout().shape()[2]);
        let kernel = |inputs: [&[f32]; 3], [out]: [&mut [f32]; 1]| {
            cached_attention::forward(rows, capacity, inputs, out);
        };
        let [out] = on_values([queries, keys, values], [shape], kernel);
        out
    }

    fn probability_error(log_p: FlexTensor, targets: &[usize], denominator: f32) -> FlexTensor {
        let shape = shape_of(&log_p);
        let [out] =
            on_values([log_p], [shape], |[log_p], [out]| softmax::error(log_p, targets, denominator, out));
        out
    }
}
