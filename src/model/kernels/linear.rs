//! Linear layers on the CPU, with the low-rank update of an adapter added in place.

use std::borrow::Cow;

use rayon::prelude::*;

use super::{
    Update,
    matmul::{Threads, View, product, zeros},
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
pub(super) fn forward(sizes: Sizes, [x, weight]: [&[f32]; 2], y: &mut [f32]) {
    let Sizes { tokens, into, out, .. } = sizes;
    let (x, weight) = (View::new(x, tokens, into), View::new(weight, out, into));
    product(y, false, 1.0, x, weight.transposed(), Threads::All);
}

/// The same, each token by itself.
pub(super) fn alone<W: Weight>(sizes: Sizes, x: &[f32], weight: &[W], y: &mut [f32]) {
    skinny::product(x, weight, [sizes.tokens, sizes.into, sizes.out], y);
}

/// Adds `scale * (x A^T) B^T` to `y`, each token by itself.
pub(super) fn adapt_alone(sizes: Sizes, scale: f32, [x, a, b]: [&[f32]; 3], y: &mut [f32]) {
    let Sizes { tokens, into, out, rank } = sizes;
    let (mut low, mut update) = (vec![0.0; tokens * rank], vec![0.0; tokens * out]);
    skinny::product(x, a, [tokens, into, rank], &mut low);
    skinny::product(&low, b, [tokens, rank, out], &mut update);
    y.par_iter_mut().zip(&update).for_each(|(y, update)| *y += scale * update);
}

/// The gradient of the input: `g W`.
pub(super) fn backward(sizes: Sizes, [grad, weight]: [&[f32]; 2], x_grad: &mut [f32]) {
    let Sizes { tokens, into, out, .. } = sizes;
    let (grad, weight) = (View::new(grad, tokens, out), View::new(weight, out, into));
    product(x_grad, false, 1.0, grad, weight, Threads::All);
}

/// Adds `scale * (dropout(x) A^T) B^T` to `y`, and gives `dropout(x) A^T` for the backward pass.
pub(super) fn adapt(sizes: Sizes, update: &Update, [x, a, b]: [&[f32]; 3], [y, low]: [&mut [f32]; 2]) {
    let Sizes { tokens, into, out, rank } = sizes;
    let dropped = dropped(update, x);
    let (dropped, a) = (View::new(&dropped, tokens, into), View::new(a, rank, into));
    product(low, false, 1.0, dropped, a.transposed(), Threads::All);
    let b = View::new(b, out, rank);
    product(y, true, update.scale, View::new(low, tokens, rank), b.transposed(), Threads::All);
}

/// Adds the adapter's share to the gradient of the input, and gives those of A and of B.
pub(super) fn adapt_backward(
    sizes: Sizes,
    update: &Update,
    [grad, x, low, a, b]: [&[f32]; 5],
    [x_grad, a_grad, b_grad]: [&mut [f32]; 3],
) {
    let Sizes { tokens, into, out, rank } = sizes;
    let grad = View::new(grad, tokens, out);
    let mut low_grad = vec![0.0; tokens * rank];
    product(&mut low_grad, false, update.scale, grad, View::new(b, out, rank), Threads::All);
    let low_grad = View::new(&low_grad, tokens, rank);
    let a = View::new(a, rank, into);
    match &update.dropout {
        None => product(x_grad, true, 1.0, low_grad, a, Threads::All),
        Some(dropout) => {
            let mut dropped_grad = zeros(tokens * into);
            product(&mut dropped_grad, false, 1.0, low_grad, a, Threads::All);
            dropout.drop_from(&mut dropped_grad);
            x_grad.par_iter_mut().zip(&dropped_grad).for_each(|(sum, grad)| *sum += grad);
        }
    }
    let dropped = dropped(update, x);
    let dropped = View::new(&dropped, tokens, into);
    product(a_grad, false, 1.0, low_grad.transposed(), dropped, Threads::All);
    let low = View::new(low, tokens, rank);
    product(b_grad, false, update.scale, grad.transposed(), low, Threads::All);
}

/// The input of the adapter's pair.
fn dropped<'x>(update: &Update, x: &'x [f32]) -> Cow<'x, [f32]> {
    let Some(dropout) = &update.dropout else { return Cow::Borrowed(x) };
    let mut x: Vec<f32> = x.par_iter().copied().collect();
    dropout.drop_from(&mut x);
    Cow::Owned(x)
}
