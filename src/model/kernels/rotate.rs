//! Rotary positions on the CPU.

use rayon::prelude::*;

use super::Turn;

/// Rows that one thread takes at a time.
const ROWS: usize = 16;

/// Turns each pair `(first, second)` of features of each head by its token's angle, or back.
///
/// # Shapes
/// `x` is `[tokens, heads * 2 * half]`; `cos` and `sin` are `[tokens, half]`. Pairs are the two
/// halves of a head, or neighbours.
pub(super) fn rotate([x, cos, sin]: [&[f32]; 3], half: usize, turn: Turn, out: &mut [f32]) {
    let tokens = cos.len() / half.max(1);
    let width = x.len() / tokens.max(1);
    let angles = cos.par_chunks(ROWS * half).zip(sin.par_chunks(ROWS * half));
    out.par_chunks_mut(ROWS * width).zip(x.par_chunks(ROWS * width)).zip(angles).for_each(
        |((out, x), (cos, sin))| {
            let rows = x.chunks_exact(width).zip(cos.chunks_exact(half).zip(sin.chunks_exact(half)));
            for (out, (x, (cos, sin))) in out.chunks_exact_mut(width).zip(rows) {
                let heads = out.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half));
                for (out, x) in heads {
                    for (at, (cos, sin)) in cos.iter().zip(sin).enumerate() {
                        let (first, second) =
                            if turn.interleaved { (2 * at, 2 * at + 1) } else { (at, half + at) };
                        let sin = if turn.back { -sin } else { *sin };
                        out[first] = x[first] * cos - x[second] * sin;
                        out[second] = x[second] * cos + x[first] * sin;
                    }
                }
            }
        },
    );
}
