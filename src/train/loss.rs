//! Next-token cross-entropy, on the labelled positions only and in chunks.

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};

use crate::{
    data::IGNORED_LABEL,
    model::{Decoder, Products, linear, linear_backward, log_softmax, softmax_error, to_dtype, to_f32},
};

/// Labelled positions whose logits exist at the same time. Bounds memory to `CHUNK * vocab_size`.
pub(super) const CHUNK: usize = 256;

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
    // Widened once, not for each chunk.
    let head = to_dtype(model.head().clone().inner(), hidden.dtype());
    let mut loss = Loss { sum: 0.0, hidden_grad: hidden.zeros_like(), head_grad: None };
    for chunk in labelled(targets).chunks(CHUNK) {
        let Chunk { positions, tokens, rows, log_p, slope } = Chunk::new(model, hidden, &head, chunk);
        loss.sum += nats(&log_p, &tokens);
        let wanted = chunk.iter().map(|(_, token)| *token as usize).collect();
        let error = softmax_error(log_p, wanted, denominator as f32);
        let error = match slope {
            Some(slope) => error * slope,
            None => error,
        };
        let error = to_dtype(error, hidden.dtype());
        let rows_grad = linear_backward(error.clone(), head.clone());
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

/// The loss alone, in nats, summed over the labelled positions.
///
/// # Shapes
/// As for [`cross_entropy`].
pub fn loss_sum(model: &Decoder, hidden: &Tensor<2>, targets: &[i32]) -> f64 {
    // Widened once, not for each chunk.
    let head = to_dtype(model.head().clone().inner(), hidden.dtype());
    let chunks = labelled(targets);
    let sums = chunks.chunks(CHUNK).map(|chunk| {
        let chunk = Chunk::new(model, hidden, &head, chunk);
        nats(&chunk.log_p, &chunk.tokens)
    });
    sums.sum()
}

/// The positions that count, with the token that should come next.
fn labelled(targets: &[i32]) -> Vec<(i32, i32)> {
    let all = targets.iter().enumerate().map(|(position, target)| (position as i32, *target));
    all.filter(|(_, target)| *target != IGNORED_LABEL).collect()
}

/// The logits of some labelled positions.
struct Chunk {
    positions: Tensor<1, Int>,
    /// `[n, 1]`.
    tokens: Tensor<2, Int>,
    /// `[n, hidden_size]`.
    rows: Tensor<2>,
    /// `[n, vocab_size]`.
    log_p: Tensor<2>,
    /// With z = cap * tanh(u / cap), dz/du = 1 - (z / cap)^2.
    slope: Option<Tensor<2>>,
}

impl Chunk {
    fn new(model: &Decoder, hidden: &Tensor<2>, head: &Tensor<2>, chunk: &[(i32, i32)]) -> Self {
        let (n, device) = (chunk.len(), hidden.device());
        let (positions, tokens): (Vec<i32>, Vec<i32>) = chunk.iter().copied().unzip();
        let positions = Tensor::<1, Int>::from_data(TensorData::new(positions, [n]), &device);
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [n, 1]), &device);
        let rows = hidden.clone().select(0, positions.clone());
        let logits = to_f32(linear(rows.clone(), head.clone(), Products::Joint));
        let (logits, slope) = match model.config.final_logit_softcapping {
            Some(cap) => {
                let capped = logits.div_scalar(cap).tanh();
                (capped.clone().mul_scalar(cap), Some(capped.square().neg() + 1.0))
            }
            None => (logits, None),
        };
        Self { positions, tokens, rows, log_p: log_softmax(logits), slope }
    }
}

fn nats(log_p: &Tensor<2>, tokens: &Tensor<2, Int>) -> f64 {
    let picked = log_p.clone().gather(1, tokens.clone()).into_data();
    -picked.iter::<f32>().map(f64::from).sum::<f64>()
}
