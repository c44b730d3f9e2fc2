//! The passes in LibTorch's own fused operations, on whatever device it runs; in f32 on the CPU in ours.

use burn::backend::LibTorch;
use burn_tch::TchTensor;
use tch::{Kind, Tensor};

use super::{
    CachedRows, Copied, Segments, Turn, Update, cached_portable, libtorch_cpu, passes::Passes, portable,
};

impl Passes for LibTorch {
    fn attention_forward(inputs: [TchTensor; 3], rows: &Segments) -> TchTensor {
        if let Some(out) = libtorch_cpu::attention_forward(inputs.each_ref().map(|x| &x.tensor), rows) {
            return TchTensor::new(out);
        }
        if rows.softcap.is_some() {
            return portable::attention_forward::<Self>(inputs, rows);
        }
        TchTensor::new(Rows::new(rows).attend(inputs.map(|input| input.tensor)))
    }

    /// The fused kernel's own gradient, after its forward pass once more: nothing but the inputs
    /// was kept.
    fn attention_backward(inputs: [TchTensor; 3], grad: TchTensor, rows: &Segments) -> [TchTensor; 3] {
        let [q, k, v] = inputs.each_ref().map(|x| &x.tensor);
        if let Some(grads) = libtorch_cpu::attention_backward([q, k, v, &grad.tensor], rows) {
            return grads.map(TchTensor::new);
        }
        if rows.softcap.is_some() {
            return portable::attention_backward::<Self>(inputs, grad, rows);
        }
        let leaves = inputs.map(|input| input.tensor.detach().set_requires_grad(true));
        let product = tch::with_grad(|| {
            let output = Rows::new(rows).attend(leaves.each_ref().map(Tensor::shallow_clone));
            (output * grad.tensor).sum(Kind::Float)
        });
        let mut grads = Tensor::run_backward(&[product], &leaves, false, false).into_iter();
        leaves.map(|_| TchTensor::new(grads.next().expect("a gradient for each input")))
    }

    fn swiglu_forward([gate, up]: [TchTensor; 2]) -> TchTensor {
        let ours = libtorch_cpu::swiglu_forward([&gate.tensor, &up.tensor]);
        TchTensor::new(ours.unwrap_or_else(|| gate.tensor.silu().g_mul_(&up.tensor)))
    }

    fn swiglu_backward([gate, up]: [TchTensor; 2], grad: TchTensor) -> [TchTensor; 2] {
        if let Some(grads) = libtorch_cpu::swiglu_backward([&gate.tensor, &up.tensor, &grad.tensor]) {
            return grads.map(TchTensor::new);
        }
        let up_grad = gate.tensor.silu().g_mul_(&grad.tensor);
        let gate_grad = gate.tensor.silu_backward(&(grad.tensor * up.tensor));
        [gate_grad, up_grad].map(TchTensor::new)
    }

    fn linear_forward(x: TchTensor, weight: TchTensor) -> TchTensor {
        let ours = libtorch_cpu::linear_forward([&x.tensor, &weight.tensor]);
        TchTensor::new(ours.unwrap_or_else(|| linear_forward(&x.tensor, &weight.tensor)))
    }

    fn linear_alone(x: TchTensor, weight: TchTensor) -> TchTensor {
        let ours = libtorch_cpu::linear_alone([&x.tensor, &weight.tensor]);
        TchTensor::new(ours.unwrap_or_else(|| linear_forward(&x.tensor, &weight.tensor)))
    }

    fn linear_backward(weight: TchTensor, grad: TchTensor) -> TchTensor {
        let ours = libtorch_cpu::linear_backward([&grad.tensor, &weight.tensor]);
        TchTensor::new(ours.unwrap_or_else(|| linear_backward(&grad.tensor, &weight.tensor)))
    }

    fn adapted_forward(inputs: [TchTensor; 4], update: &Update) -> [TchTensor; 2] {
        let inputs = inputs.each_ref().map(|input| &input.tensor);
        let ours = libtorch_cpu::adapted_forward(inputs, update);
        ours.unwrap_or_else(|| adapted_forward(inputs, update)).map(TchTensor::new)
    }

    fn adapted_alone(inputs: [TchTensor; 4], update: &Update) -> TchTensor {
        let inputs = inputs.each_ref().map(|input| &input.tensor);
        let ours = libtorch_cpu::adapted_alone(inputs, update);
        TchTensor::new(ours.unwrap_or_else(|| {
            let [output, _] = adapted_forward(inputs, update);
            output
        }))
    }

    fn adapted_backward(inputs: [TchTensor; 6], update: &Update) -> [TchTensor; 3] {
        let inputs = inputs.each_ref().map(|input| &input.tensor);
        let ours = libtorch_cpu::adapted_backward(inputs, update);
        ours.unwrap_or_else(|| adapted_backward(inputs, update)).map(TchTensor::new)
    }

    fn rms_norm_forward(x: TchTensor, weight: TchTensor, eps: f32) -> TchTensor {
        if let Some(out) = libtorch_cpu::rms_norm_forward([&x.tensor, &weight.tensor], eps) {
            return TchTensor::new(out);
        }
        let mut output = &x.tensor * row_scale(&x.tensor, eps);
        TchTensor::new(output.g_mul_(&weight.tensor))
    }

    fn rms_norm_backward(x: TchTensor, weight: TchTensor, grad: TchTensor, eps: f32) -> TchTensor {
        if let Some(out) = libtorch_cpu::rms_norm_backward([&x.tensor, &weight.tensor, &grad.tensor], eps) {
            return TchTensor::new(out);
        }
        let (scale, x) = (row_scale(&x.tensor, eps), x.tensor);
        let mut weighted = grad.tensor * weight.tensor;
        let mean = (&weighted * &x).mean_dim(1, true, None::<Kind>);
        let pull = mean * scale.pow_tensor_scalar(3) * -1.0;
        TchTensor::new(weighted.g_mul_(&scale).addcmul_(&x, &pull))
    }

    fn turned(x: TchTensor, [cos, sin]: [TchTensor; 2], turn: Turn) -> TchTensor {
        if let Some(out) = libtorch_cpu::turned([&x.tensor, &cos.tensor, &sin.tensor], turn) {
            return TchTensor::new(out);
        }
        let (whole, half) = (x.tensor.size(), cos.tensor.size()[1]);
        // The members of a pair lie along one dimension of two.
        let (split, member) = match turn.interleaved {
            true => ([whole[0], -1, half, 2], 3),
            false => ([whole[0], -1, 2, half], 2),
        };
        let x = x.tensor.view(split);
        let sin = if turn.back { sin.tensor } else { sin.tensor.neg() }.unsqueeze(1);
        let turned = &x * cos.tensor.unsqueeze(1).unsqueeze(member);
        let [first, second] = [0, 1].map(|at| x.select(member, at));
        let _ = turned.select(member, 0).addcmul_(&second, &sin);
        let _ = turned.select(member, 1).addcmul_(&first, &sin.neg());
        TchTensor::new(turned.view(whole.as_slice()))
    }

    fn log_probabilities(logits: TchTensor) -> TchTensor {
        let ours = libtorch_cpu::log_probabilities(&logits.tensor);
        TchTensor::new(ours.unwrap_or_else(|| logits.tensor.log_softmax(1, None::<Kind>)))
    }

    fn attended(queries: TchTensor, cache: [TchTensor; 2], rows: &CachedRows) -> TchTensor {
        let [keys, values] = cache.each_ref().map(|cache| &cache.tensor);
        match libtorch_cpu::attended([&queries.tensor, keys, values], rows) {
            Some(out) => TchTensor::new(out),
            None => cached_portable::attention::<Self>(queries, cache, rows),
        }
    }

    fn appended(cache: TchTensor, new: TchTensor, rows: &CachedRows) -> TchTensor {
        let Segments { kv_heads, head_dim, .. } = rows.shape;
        let at = rows.places.once(None, || Written::new(rows, new.tensor.device()));
        let new = new.tensor.reshape([-1, kv_heads as i64, head_dim as i64]);
        let at = [Some(&at.slots.tensor), None, Some(&at.places.tensor)];
        cache.unary_ops(
            |mut cache| cache.index_put_(&at, &new, false),
            |cache| cache.index_put(&at, &new, false),
        )
    }

    /// As many tokens of each slot as the longest has: what lies behind a slot's own is never read.
    fn copied(cache: TchTensor, copies: &[Copied]) -> TchTensor {
        let tokens = copies.iter().map(|copied| copied.tokens as i64).max().unwrap_or(0);
        let device = cache.tensor.device();
        let column = |of: fn(&Copied) -> usize| {
            let slots: Vec<i64> = copies.iter().map(|copied| of(copied) as i64).collect();
            Tensor::from_slice(&slots).to_device(device)
        };
        let to = column(|copied| copied.to);
        let part = cache.tensor.narrow(2, 0, tokens).index_select(0, &column(|copied| copied.from));
        let write = |cache: Tensor| {
            let _ = cache.narrow(2, 0, tokens).index_copy_(0, &to, &part);
            cache
        };
        cache.unary_ops(write, |cache| write(cache.copy()))
    }

    fn probability_error(log_p: TchTensor, targets: &[usize], denominator: f32) -> TchTensor {
        let targets: Vec<i64> = targets.iter().map(|target| *target as i64).collect();
        let targets = Tensor::from_slice(&targets).to_device(log_p.tensor.device()).unsqueeze(1);
        let mut error = log_p.unary_ops(|mut log_p| log_p.exp_(), Tensor::exp).tensor;
        let minus_one = Tensor::full_like(&targets, -1.0).to_kind(error.kind());
        let mut error = error.scatter_add_(1, &targets, &minus_one);
        TchTensor::new(error.g_mul_scalar_(1.0 / f64::from(denominator)))
    }
}

/// Where the new tokens of a pass go in a cache.
struct Written {
    slots: TchTensor,
    /// In their slots.
    places: TchTensor,
}

impl Written {
    fn new(rows: &CachedRows, device: tch::Device) -> Self {
        let tokens = rows.places.iter().zip(&rows.shape.lengths).flat_map(|(place, &new)| {
            (place.past..place.past + new).map(move |at| (place.slot as i64, at as i64))
        });
        let (slots, places): (Vec<i64>, Vec<i64>) = tokens.unzip();
        let column = |values: Vec<i64>| TchTensor::new(Tensor::from_slice(&values).to_device(device));
        Self { slots: column(slots), places: column(places) }
    }
}

pub(super) fn linear_forward(x: &Tensor, weight: &Tensor) -> Tensor {
    product(x, &weight.tr())
}

pub(super) fn linear_backward(grad: &Tensor, weight: &Tensor) -> Tensor {
    product(grad, weight)
}

pub(super) fn adapted_forward([x, weight, a, b]: [&Tensor; 4], update: &Update) -> [Tensor; 2] {
    let low = dropped(&x.to_kind(a.kind()), update).linear(a, None::<Tensor>);
    let mut output = linear_forward(x, weight);
    let scaled = &low * f64::from(update.scale);
    let output = match output.kind() == low.kind() {
        true => output.addmm_(&scaled, &b.tr()),
        false => {
            let added = scaled.linear(b, None::<Tensor>);
            output.g_add_(&added.to_kind(output.kind()))
        }
    };
    [output, low]
}

pub(super) fn adapted_backward([grad, x, low, weight, a, b]: [&Tensor; 6], update: &Update) -> [Tensor; 3] {
    let (base, adapter) = (x.kind(), a.kind());
    let mut x_grad = linear_backward(grad, weight);
    let grad = grad.to_kind(adapter);
    let low_grad = grad.matmul(b) * f64::from(update.scale);
    let x_grad = match update.dropout.is_none() && base == adapter {
        true => x_grad.addmm_(&low_grad, a),
        false => x_grad.g_add_(&dropped(&low_grad.matmul(a), update).to_kind(base)),
    };
    let a_grad = low_grad.tr().matmul(&dropped(&x.to_kind(adapter), update));
    let b_grad = grad.tr().matmul(low) * f64::from(update.scale);
    [x_grad, a_grad, b_grad]
}

/// A product in the first matrix's number format.
fn product(a: &Tensor, b: &Tensor) -> Tensor {
    a.matmul(&b.to_kind(a.kind()))
}

/// `1 / sqrt(mean(x^2) + eps)` of each row: `[rows, 1]`.
fn row_scale(x: &Tensor, eps: f32) -> Tensor {
    let mut length = x.norm_scalaropt_dim(2, 1, true);
    let mean = length.square_() / x.size()[1] as f64;
    (mean + f64::from(eps)).rsqrt_()
}

/// Some of the values dropped, as the update says.
fn dropped(x: &Tensor, update: &Update) -> Tensor {
    let Some(dropout) = &update.dropout else { return x.shallow_clone() };
    let factors = Tensor::from_slice(&dropout.factors(x.numel())).to_device(x.device());
    x * factors.view_as(x).to_kind(x.kind())
}

/// Rows one after another, as the fused kernel wants them: padded on the right to the longest,
/// where causality alone hides the padding.
struct Rows<'a> {
    shape: &'a Segments,
    lengths: Vec<i64>,
}

impl<'a> Rows<'a> {
    fn new(shape: &'a Segments) -> Self {
        Self { shape, lengths: shape.lengths.iter().map(|length| *length as i64).collect() }
    }

    fn attend(&self, inputs: [Tensor; 3]) -> Tensor {
        let Segments { heads, kv_heads, scale, .. } = *self.shape;
        let [queries, keys, values] = inputs;
        let [queries, keys, values] =
            [(queries, heads), (keys, kv_heads), (values, kv_heads)].map(|(x, heads)| self.padded(&x, heads));
        let window = self.window(&queries);
        // On CUDA only the kernel for half precision without a mask shares keys between heads; others
        // would fall back to one that makes all scores.
        let repeats = heads != kv_heads
            && queries.device().is_cuda()
            && (queries.kind() == Kind::Float || window.is_some());
        let [keys, values] = [keys, values].map(|shared| match repeats {
            true => shared.repeat_interleave_self_int((heads / kv_heads) as i64, 1, None),
            false => shared,
        });
        let output = Tensor::scaled_dot_product_attention(
            &queries,
            &keys,
            &values,
            window.as_ref(),
            0.0,
            window.is_none(),
            f64::from(scale),
            heads != kv_heads && !repeats,
        );
        self.joined(&output)
    }

    /// `[tokens, heads * head_dim]` as `[rows, heads, longest, head_dim]`.
    fn padded(&self, joined: &Tensor, heads: usize) -> Tensor {
        let heads = joined.view([-1, heads as i64, self.shape.head_dim as i64]);
        let rows = match self.lengths.len() {
            1 => heads.unsqueeze(0),
            _ => Tensor::pad_sequence(&heads.split_with_sizes(&self.lengths, 0), true, 0.0, "right"),
        };
        rows.transpose(1, 2)
    }

    /// The inverse of [`Self::padded`].
    fn joined(&self, padded: &Tensor) -> Tensor {
        let rows = padded.transpose(1, 2);
        let parts: Vec<Tensor> =
            rows.unbind(0).iter().zip(&self.lengths).map(|(row, length)| row.narrow(0, 0, *length)).collect();
        Tensor::cat(&parts, 0).flatten(1, 2)
    }

    /// What each query sees, where it is not everything before it.
    fn window(&self, queries: &Tensor) -> Option<Tensor> {
        let longest = self.lengths.iter().copied().max()?;
        let window = self.shape.window.filter(|window| (*window as i64) < longest)? as i64;
        let all = Tensor::ones([longest, longest], (Kind::Bool, queries.device()));
        Some(all.tril(0).logical_and(&all.triu(1 - window)))
    }
}
