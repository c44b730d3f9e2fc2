//! Linear layers on the CPU, with the low-rank update of an adapter added in place.

use std::borrow::Cow;

use rayon::prelude::*;

use super::{
    Update,
    matmul::{Threads, View, product},
    skinny::{self, Weight},
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
    let mut y = vec![0.0; tokens * out];
    let (x, weight) = (View::new(x, tokens, into), View::new(weight, out, into));
    product(&mut y, false, 1.0, x, weight.transposed(), Threads::All);
    y
}

/// The same, each token by itself.
pub(super) fn alone<W: Weight>(sizes: Sizes, x: &[f32], weight: &[W]) -> Vec<f32> {
    skinny::product(x, weight, [sizes.tokens, sizes.into, sizes.out])
}

/// Adds `scale * (x A^T) B^T` to `y`, each token by itself.
pub(super) fn adapt_alone(sizes: Sizes, scale: f32, mut y: Vec<f32>, [x, a, b]: [&[f32]; 3]) -> Vec<f32> {
    let Sizes { tokens, into, out, rank } = sizes;
    let low = skinny::product(x, a, [tokens, into, rank]);
    let update = skinny::product(&low, b, [tokens, rank, out]);
    y.par_iter_mut().zip(&update).for_each(|(y, update)| *y += scale * update);
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

/// `x W^T + scale * (dropout(x) A^T) B^T`, and `dropout(x) A^T` for the backward pass.
pub(super) fn forward_adapted(
    sizes: Sizes,
    update: &Update,
    [x, weight, a, b]: [&[f32]; 4],
) -> [Vec<f32>; 2] {
    let Sizes { tokens, into, out, rank } = sizes;
    let mut y = forward(sizes, x, weight);
    let mut low = vec![0.0; tokens * rank];
    let dropped = dropped(update, x);
    let (dropped, a) = (View::new(&dropped, tokens, into), View::new(a, rank, into));
    product(&mut low, false, 1.0, dropped, a.transposed(), Threads::All);
    let b = View::new(b, out, rank);
    product(&mut y, true, update.scale, View::new(&low, tokens, rank), b.transposed(), Threads::All);
    [y, low]
}

/// Gradients of the input, of A and of B.
pub(super) fn backward_adapted(
    sizes: Sizes,
    update: &Update,
    [grad, x, low, weight, a, b]: [&[f32]; 6],
) -> [Vec<f32>; 3] {
    let Sizes { tokens, into, out, rank } = sizes;
    let mut x_grad = backward(sizes, grad, weight);
    let grad = View::new(grad, tokens, out);
    let mut low_grad = vec![0.0; tokens * rank];
    product(&mut low_grad, false, update.scale, grad, View::new(b, out, rank), Threads::All);
    let low_grad = View::new(&low_grad, tokens, rank);
    let a = View::new(a, rank, into);
    match &update.dropout {
        None => product(&mut x_grad, true, 1.0, low_grad, a, Threads::All),
        Some(dropout) => {
            let mut dropped_grad = vec![0.0; tokens * into];
            product(&mut dropped_grad, false, 1.0, low_grad, a, Threads::All);
            dropout.drop_from(&mut dropped_grad);
            x_grad.par_iter_mut().zip(&dropped_grad).for_each(|(sum, grad)| *sum += grad);
        }
    }
    let mut a_grad = vec![0.0; rank * into];
    let dropped = dropped(update, x);
    let dropped = View::new(&dropped, tokens, into);
    product(&mut a_grad, false, 1.0, low_grad.transposed(), dropped, Threads::All);
    let mut b_grad = vec![0.0; out * rank];
    let low = View::new(low, tokens, rank);
    product(&mut b_grad, false, update.scale, grad.transposed(), low, Threads::All);
    [x_grad, a_grad, b_grad]
}

/// The input of the adapter's pair.
fn dropped<'x>(update: &Update, x: &'x [f32]) -> Cow<'x, [f32]> {
    let mut x = Cow::Borrowed(x);
    if let Some(dropout) = &update.dropout {
        dropout.drop_from(x.to_mut());
    }
    x
}
