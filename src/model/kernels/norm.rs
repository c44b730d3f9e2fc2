//! Root-mean-square normalisation on the CPU.

use pulp::Arch;
use rayon::prelude::*;

/// Rows that one thread takes at a time.
const ROWS: usize = 16;

/// Sum of products in 16 lanes, which compiles to vector instructions; the order is fixed.
#[inline(always)]
fn dot(a: impl Fn(usize) -> f32, length: usize) -> f32 {
    let mut lanes = [0_f32; 16];
    let whole = length / 16 * 16;
    for at in (0..whole).step_by(16) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += a(at + lane);
        }
    }
    (whole..length).map(a).sum::<f32>() + lanes.iter().sum::<f32>()
}

/// `x / sqrt(mean(x^2) + eps) * weight` for each row of `weight.len()` values.
pub(super) fn forward([x, weight]: [&[f32]; 2], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    let arch = Arch::new();
    out.par_chunks_mut(ROWS * width).zip(x.par_chunks(ROWS * width)).for_each(|(out, x)| {
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            arch.dispatch(
                #[inline(always)]
                || {
                    let scale = scale(x, eps);
                    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                        *out = x * scale * weight;
                    }
                },
            );
        }
    });
}

#[inline(always)]
fn scale(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(|at| x[at] * x[at], x.len()) / x.len() as f32 + eps).sqrt()
}

/// The gradient of the input: with `r` the factor of a row,
/// `r (g w) - x r^3 mean(g w x)`.
pub(super) fn backward([x, weight, grad]: [&[f32]; 3], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    let arch = Arch::new();
    let inputs = x.par_chunks(ROWS * width).zip(grad.par_chunks(ROWS * width));
    out.par_chunks_mut(ROWS * width).zip(inputs).for_each(|(out, (x, grad))| {
        let rows = x.chunks_exact(width).zip(grad.chunks_exact(width));
        for (out, (x, grad)) in out.chunks_exact_mut(width).zip(rows) {
            arch.dispatch(
                #[inline(always)]
                || {
                    let r = scale(x, eps);
                    let mean = dot(|at| grad[at] * weight[at] * x[at], width) / width as f32;
                    let share = r * r * r * mean;
                    for (((out, x), grad), weight) in out.iter_mut().zip(x).zip(grad).zip(weight) {
                        *out = r * grad * weight - x * share;
                    }
                },
            );
        }
    });
}
