//! Logarithms of probabilities on the CPU.

use pulp::Arch;
use rayon::prelude::*;

use super::exp::exp;

/// `x - log(sum(exp(x)))` for each row of `width` values.
pub(super) fn log_softmax(x: &[f32], width: usize, out: &mut [f32]) {
    let arch = Arch::new();
    out.par_chunks_mut(width).zip(x.par_chunks(width)).for_each(|(out, x)| {
        arch.dispatch(
            #[inline(always)]
            || {
                // Greatest first, against overflow; NaN must survive, so no `f32::max` here.
                let mut most = [f32::NEG_INFINITY; 16];
                let (chunks, rest) = x.as_chunks::<16>();
                for chunk in chunks {
                    for (most, x) in most.iter_mut().zip(chunk) {
                        *most = if *x > *most { *x } else { *most };
                    }
                }
                let most =
                    most.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a });
                let mut sums = [0_f32; 16];
                for chunk in chunks {
                    for (sum, x) in sums.iter_mut().zip(chunk) {
                        *sum += exp(x - most);
                    }
                }
                let sum = sums.iter().sum::<f32>() + rest.iter().map(|x| exp(x - most)).sum::<f32>();
                let shift = most + sum.ln();
                for (out, x) in out.iter_mut().zip(x) {
                    *out = x - shift;
                }
            },
        );
    });
}

/// The gradient of the mean negative logarithm: `(exp(log_p) - 1 at the target) / denominator`.
pub(super) fn error(log_p: &[f32], targets: &[usize], denominator: f32, out: &mut [f32]) {
    let width = log_p.len() / targets.len().max(1);
    let arch = Arch::new();
    let factor = 1.0 / denominator;
    out.par_chunks_mut(width).zip(log_p.par_chunks(width)).zip(targets).for_each(|((out, log_p), target)| {
        arch.dispatch(
            #[inline(always)]
            || {
                for (out, log_p) in out.iter_mut().zip(log_p) {
                    *out = exp(*log_p) * factor;
                }
            },
        );
        out[*target] -= factor;
    });
}
