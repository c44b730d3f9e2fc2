//! Linear layers on the CPU, with the low-rank update of an adapter added in place.

use super::{
    matmul::{Threads, View, product},
    skinny,
};

/// Sizes of a linear layer on some tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) tokens: usize,
    pub(super) into: usize,
    pub(super) out: usize,
    /// Of the adapter.
    pub(super) rank: usize,
}

/// `x W^T`.
pub(super) fn forward(sizes: Sizes, x: &[f32], weight: &[f32]) -> Vec<f32> {
    let Sizes { tokens, into, out, .. } = sizes;
    if tokens <= skinny::FEW {
        return skinny::product(x, weight, [tokens, into, out]);
    }
    let mut y = vec![0.0; tokens * out];
    let (x, weight) = (View::new(x, tokens, into), View::new(weight, out, into));
    product(&mut y, false, 1.0, x, weight.transposed(), Threads::All);
    y
}

/// The gradient of the input: `g W`.
pub(super) fn backward(sizes: Sizes, grad: &[f32], weight: &[f32]) -> Vec<f32> {
    let Sizes { tokens, into, out, .. } = sizes;
    let mut x_grad = vec![0.0; tokens * into];
    let (grad, weight) = (View::new(grad, tokens, out), View::new(weight, out, into));
    product(&mut x_grad, false, 1.0, grad, weight, Threads::All);
    x_grad
}

/// `x W^T + scale * (dropped A^T) B^T`, and `dropped A^T` for the backward pass.
pub(super) fn forward_adapted(
    sizes: Sizes,
    scale: f32,
    [x, dropped, weight, a, b]: [&[f32]; 5],
) -> [Vec<f32>; 2] {
    let Sizes { tokens, into, out, rank } = sizes;
    let mut y = forward(sizes, x, weight);
    let mut low = vec![0.0; tokens * rank];
    let (dropped, a) = (View::new(dropped, tokens, into), View::new(a, rank, into));
    product(&mut low, false, 1.0, dropped, a.transposed(), Threads::All);
    let b = View::new(b, out, rank);
    product(&mut y, true, scale, View::new(&low, tokens, rank), b.transposed(), Threads::All);
    [y, low]
}

/// Gradients of the input (of the base's share), of the dropped input, of A and of B.
pub(super) fn backward_adapted(
    sizes: Sizes,
    scale: f32,
    [grad, dropped, low, weight, a, b]: [&[f32]; 6],
) -> [Vec<f32>; 4] {
    let Sizes { tokens, into, out, rank } = sizes;
    let x_grad = backward(sizes, grad, weight);
    let grad = View::new(grad, tokens, out);
    let mut low_grad = vec![0.0; tokens * rank];
    product(&mut low_grad, false, scale, grad, View::new(b, out, rank), Threads::All);
    let low_grad = View::new(&low_grad, tokens, rank);
    let mut dropped_grad = vec![0.0; tokens * into];
    product(&mut dropped_grad, false, 1.0, low_grad, View::new(a, rank, into), Threads::All);
    let mut a_grad = vec![0.0; rank * into];
    let dropped = View::new(dropped, tokens, into);
    product(&mut a_grad, false, 1.0, low_grad.transposed(), dropped, Threads::All);
    let mut b_grad = vec![0.0; out * rank];
    let low = View::new(low, tokens, rank);
    product(&mut b_grad, false, scale, grad.transposed(), low, Threads::All);
    [x_grad, dropped_grad, a_grad, b_grad]
}
