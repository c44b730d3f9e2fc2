//! Next-token cross-entropy, on the labelled positions only and in chunks.

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData, activation::log_softmax};

use crate::{
    data::IGNORED_LABEL,
    model::{Decoder, to_dtype, to_f32},
};

/// Labelled positions whose logits exist at the same time. Bounds memory to `CHUNK * vocab_size`.
pub(super) const CHUNK: usize = 512;

/// The loss of one micro-batch and its gradients with respect to the network's last two parts.
#[derive(Debug)]
pub struct Loss {
    /// Sum over the labelled positions, in nats.
    pub sum: f64,
    /// `[tokens, hidden_size]`, already divided by the caller's denominator.
    pub hidden_grad: Tensor<2>,
    /// `[vocab_size, hidden_size]`, likewise; only when asked for.
    pub head_grad: Option<Tensor<2>>,
}

/// Loss and gradient in closed form: with `p = softmax(h W^T)` and one-hot labels `y`, the
/// gradients are `(p - y) W` and `(p - y)^T h`. Logits therefore need no gradient graph and live
/// one chunk at a time.
///
/// `targets` holds, for each position of the flattened `[batch, seq]`, the token that should come
/// next, or -100. Gradients are divided by `denominator` (the label tokens of the whole
/// optimizer step).
///
/// # Shapes
/// `hidden` is `[batch * seq, hidden_size]`, outside any gradient graph.
pub fn cross_entropy(
    model: &Decoder,
    hidden: &Tensor<2>,
    targets: &[i32],
    denominator: f64,
    with_head: bool,
) -> Loss {
    let device = hidden.device();
    let head = model.head().clone().inner();
    let labelled: Vec<(i32, i32)> = targets
        .iter()
        .enumerate()
        .filter(|(_, target)| **target != IGNORED_LABEL)
        .map(|(position, target)| (position as i32, *target))
        .collect();
    let mut loss = Loss { sum: 0.0, hidden_grad: hidden.zeros_like(), head_grad: None };
    for chunk in labelled.chunks(CHUNK) {
        let n = chunk.len();
        let (positions, tokens): (Vec<i32>, Vec<i32>) = chunk.iter().copied().unzip();
        let positions = Tensor::<1, Int>::from_data(TensorData::new(positions, [n]), &device);
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [n, 1]), &device);
        let rows = hidden.clone().select(0, positions.clone());
        let logits = to_f32(rows.clone().matmul(head.clone().transpose()));
        // With z = cap * tanh(u / cap), dz/du = 1 - (z / cap)^2.
        let (logits, slope) = match model.config.final_logit_softcapping {
            Some(cap) => {
                let capped = logits.div_scalar(cap).tanh();
                (capped.clone().mul_scalar(cap), Some(capped.square().neg() + 1.0))
            }
            None => (logits, None),
        };
        let log_p = log_softmax(logits, 1);
        let picked = log_p.clone().gather(1, tokens.clone()).into_data();
        loss.sum -= picked.iter::<f32>().map(f64::from).sum::<f64>();
        let minus_one = Tensor::full([n, 1], -1.0, &device);
        let error = log_p.exp().scatter(1, tokens, minus_one, IndexingUpdateOp::Add).div_scalar(denominator);
        let error = match slope {
            Some(slope) => error * slope,
            None => error,
        };
        let error = to_dtype(error, head.dtype());
        let rows_grad = error.clone().matmul(head.clone());
        loss.hidden_grad.inplace(|all| all.select_assign(0, positions, rows_grad, IndexingUpdateOp::Add));
        if with_head {
            let grad = error.transpose().matmul(rows);
            loss.head_grad = Some(match loss.head_grad.take() {
                Some(sum) => sum + grad,
                None => grad,
            });
        }
    }
    loss
}
