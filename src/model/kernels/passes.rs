//! The two passes of each operation on one device: kernels of ours on the CPU, a backend's own
//! operations elsewhere.

use burn::{
    backend::{Backend, Flex, ops::FloatTensorOps as _, tensor::FloatTensor},
    tensor::{DType, TensorData},
};
use burn_flex::FlexTensor;
use half::{bf16, f16};

use super::{
    CachedRows, Copied, Segments, Turn, Update, attention, cached_attention, cached_portable, linear, norm,
    portable, rotate, softmax, swiglu,
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

/// Runs a kernel over the values of dense tensors. Kernels compute in f32; the results are in the
/// first tensor's format.
fn on_values<const N: usize, const M: usize>(
    tensors: [FlexTensor; N],
    shapes: [[usize; 2]; M],
    kernel: impl FnOnce([&[f32]; N]) -> [Vec<f32>; M],
) -> [FlexTensor; M] {
    let dtype = tensors[0].dtype();
    let dense = tensors.map(|tensor| cast(tensor.to_contiguous(), DType::F32));
    let values = dense.each_ref().map(|tensor| tensor.as_slice::<f32>().expect("a dense tensor of f32"));
    let mut shapes = shapes.into_iter();
    kernel(values).map(|values| {
        let shape = shapes.next().expect("as many shapes as results");
        cast(FlexTensor::from_data(TensorData::new(values, shape)), dtype)
    })
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
fn alone(sizes: linear::Sizes, x: &[f32], weight: FlexTensor) -> Vec<f32> {
    const DENSE: &str = "a dense tensor of this format";
    let weight = weight.to_contiguous();
    match weight.dtype() {
        DType::BF16 => linear::alone(sizes, x, weight.as_slice::<bf16>().expect(DENSE)),
        DType::F16 => linear::alone(sizes, x, weight.as_slice::<f16>().expect(DENSE)),
        _ => linear::alone(sizes, x, weight.as_slice::<f32>().expect(DENSE)),
    }
}

impl Passes for Flex {
    fn attention_forward(inputs: [FlexTensor; 3], rows: &Segments) -> FlexTensor {
        let shape = shape_of(&inputs[0]);
        let [out] = on_values(inputs, [shape], |[q, k, v]| [attention::forward(rows, q, k, v)]);
        out
    }

    fn attention_backward(inputs: [FlexTensor; 3], grad: FlexTensor, rows: &Segments) -> [FlexTensor; 3] {
        let shapes = inputs.each_ref().map(shape_of);
        let [q, k, v] = inputs;
        on_values([q, k, v, grad], shapes, |[q, k, v, grad]| attention::backward(rows, [q, k, v], grad))
    }

    fn swiglu_forward(inputs: [FlexTensor; 2]) -> FlexTensor {
        let shape = shape_of(&inputs[0]);
        let [out] = on_values(inputs, [shape], |[gate, up]| [swiglu::forward(gate, up)]);
        out
    }

    fn swiglu_backward([gate, up]: [FlexTensor; 2], grad: FlexTensor) -> [FlexTensor; 2] {
        let shapes = [shape_of(&gate), shape_of(&up)];
        on_values([gate, up, grad], shapes, |[gate, up, grad]| swiglu::backward(gate, up, grad))
    }

    fn linear_forward(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let sizes = sizes(shape_of(&x)[0], &weight, 0);
        let [y] =
            on_values([x, weight], [[sizes.tokens, sizes.out]], |[x, w]| [linear::forward(sizes, x, w)]);
        y
    }

    fn linear_alone(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let sizes = sizes(shape_of(&x)[0], &weight, 0);
        let [y] = on_values([x], [[sizes.tokens, sizes.out]], |[x]| [alone(sizes, x, weight)]);
        y
    }

    fn linear_backward(weight: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let sizes = sizes(shape_of(&grad)[0], &weight, 0);
        let shape = [sizes.tokens, sizes.into];
        let [x_grad] = on_values([grad, weight], [shape], |[grad, w]| [linear::backward(sizes, grad, w)]);
        x_grad
    }

    fn adapted_forward(inputs: [FlexTensor; 4], update: &Update) -> [FlexTensor; 2] {
        let [x, weight, a, _] = &inputs;
        if x.dtype() != DType::F32 {
            return portable::adapted_forward::<Self>(inputs, update);
        }
        let sizes = sizes(shape_of(x)[0], weight, shape_of(a)[0]);
        let shapes = [[sizes.tokens, sizes.out], [sizes.tokens, sizes.rank]];
        on_values(inputs, shapes, |values| linear::forward_adapted(sizes, update, values))
    }

    fn adapted_alone(inputs: [FlexTensor; 4], update: &Update) -> FlexTensor {
        let [x, weight, a, _] = &inputs;
        if x.dtype() != DType::F32 || update.dropout.is_some() {
            let [output, _] = Self::adapted_forward(inputs, update);
            return output;
        }
        let sizes = sizes(shape_of(x)[0], weight, shape_of(a)[0]);
        let [x, weight, a, b] = inputs;
        let kernel = |[x, a, b]: [&[f32]; 3]| {
            [linear::adapt_alone(sizes, update.scale, alone(sizes, x, weight), [x, a, b])]
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
        on_values(inputs, shapes, |values| linear::backward_adapted(sizes, update, values))
    }

    fn rms_norm_forward(x: FlexTensor, weight: FlexTensor, eps: f32) -> FlexTensor {
        let shape = shape_of(&x);
        let [out] = on_values([x, weight], [shape], |[x, weight]| [norm::forward(x, weight, eps)]);
        out
    }

    fn rms_norm_backward(x: FlexTensor, weight: FlexTensor, grad: FlexTensor, eps: f32) -> FlexTensor {
        let shape = shape_of(&x);
        let kernel = |[x, weight, grad]: [&[f32]; 3]| [norm::backward(x, weight, grad, eps)];
        let [out] = on_values([x, weight, grad], [shape], kernel);
        out
    }

    fn turned(x: FlexTensor, [cos, sin]: [FlexTensor; 2], turn: Turn) -> FlexTensor {
        let (shape, [_, half]) = (shape_of(&x), shape_of(&cos));
        let kernel = |[x, cos, sin]: [&[f32]; 3]| [rotate::rotate(x, cos, sin, half, turn)];
        let [out] = on_values([x, cos, sin], [shape], kernel);
        out
    }

    fn log_probabilities(logits: FlexTensor) -> FlexTensor {
        let shape = shape_of(&logits);
        let [out] = on_values([logits], [shape], |[logits]| [softmax::log_softmax(logits, shape[1])]);
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
        let kernel = |[q, k, v]: [&[f32]; 3]| [cached_attention::forward(rows, capacity, q, k, v)];
        let [out] = on_values([queries, keys, values], [shape], kernel);
        out
    }

    fn probability_error(log_p: FlexTensor, targets: &[usize], denominator: f32) -> FlexTensor {
        let shape = shape_of(&log_p);
        let [out] = on_values([log_p], [shape], |[log_p]| [softmax::error(log_p, targets, denominator)]);
        out
    }
}
