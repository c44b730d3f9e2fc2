//! `x W^T` on the CPU, made for few tokens, where the weights are most of the memory: they are read once
//! and in order. A token's result is one sum over its features in order, so that it does not depend on
//! the tokens beside it.

use std::ops::Range;

use half::{bf16, f16, slice::HalfFloatSliceExt as _};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Rows of the weight that are worked on together.
const ROWS: usize = 8;

/// Features between two looks at the loops' bounds: what a line of memory holds of an f32 row.
const STEP: usize = 16;

/// The most tokens that an instruction works on.
const MOST_LANES: usize = 16;

/// Rows of the weight that one thread takes at a time, where there are enough.
const SHARE: usize = 512;

/// Values of tokens that are worked on together: a core's own cache holds them.
const NEAR: usize = 1 << 17;

/// A number format that weights are in. Sums are made in f32 whatever it is.
pub(super) trait Weight: Copy + Sync {
    /// Values that a row needs to be widened.
    fn room(into: usize) -> usize;

    /// A row in f32, widened into that room where it has to be.
    fn row<'r>(row: &'r [Self], room: &'r mut [f32]) -> &'r [f32];
}

impl Weight for f32 {
    fn room(_into: usize) -> usize {
        0
    }

    #[inline(always)]
    fn row<'r>(row: &'r [Self], _room: &'r mut [f32]) -> &'r [f32] {
        row
    }
}

impl Weight for bf16 {
    fn room(into: usize) -> usize {
        into
    }

    #[inline(always)]
    fn row<'r>(row: &'r [Self], room: &'r mut [f32]) -> &'r [f32] {
        // The upper half of an f32.
        room.iter_mut()
            .zip(row)
            .for_each(|(wide, half)| *wide = f32::from_bits(u32::from(half.to_bits()) << 16));
        room
    }
}

impl Weight for f16 {
    fn room(into: usize) -> usize {
        into
    }

    fn row<'r>(row: &'r [Self], room: &'r mut [f32]) -> &'r [f32] {
        row.convert_to_f32_slice(room);
        room
    }
}

/// `x W^T`.
///
/// # Shapes
/// `x` is `[tokens, into]`, `weight` `[out, into]`, the result `[tokens, out]`.
pub(super) fn product<W: Weight>(x: &[f32], weight: &[W], [tokens, into, out]: [usize; 3], y: &mut [f32]) {
    if tokens * into * out == 0 {
        return y.fill(0.0);
    }
    let arch = Arch::new();
    let panels = panels(x, tokens, into, arch.dispatch(Lanes));
    let share = (out / (4 * rayon::current_num_threads())).next_multiple_of(ROWS).clamp(ROWS, SHARE);
    // Each thread gets some columns of the result.
    let mut parts: Vec<Vec<&mut [f32]>> =
        (0..out.div_ceil(share)).map(|_| Vec::with_capacity(tokens)).collect();
    for row in y.chunks_exact_mut(out) {
        for (part, columns) in parts.iter_mut().zip(row.chunks_mut(share)) {
            part.push(columns);
        }
    }
    parts.into_par_iter().zip(weight.par_chunks(share * into)).for_each(|(out, weight)| {
        arch.dispatch(Share { panels: &panels, weight, into, out });
    });
}

/// How many tokens an instruction works on.
struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

/// The tokens in groups of `lanes`, each group feature by feature; the last is filled up with zeros.
fn panels(x: &[f32], tokens: usize, into: usize, lanes: usize) -> Vec<f32> {
    let mut panels = vec![0.0; tokens.div_ceil(lanes) * lanes * into];
    panels.par_chunks_exact_mut(lanes * into).zip(x.par_chunks(lanes * into)).for_each(|(panel, x)| {
        for (lane, token) in x.chunks_exact(into).enumerate() {
            for (to, from) in panel[lane..].iter_mut().step_by(lanes).zip(token) {
                *to = *from;
            }
        }
    });
    panels
}

/// One thread's share of a product.
struct Share<'a, W> {
    panels: &'a [f32],
    weight: &'a [W],
    into: usize,
    /// For each token, its columns.
    out: Vec<&'a mut [f32]>,
}

impl<W: Weight> WithSimd for Share<'_, W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let rows = self.weight.len() / self.into;
        let panels = self.out.len().div_ceil(S::F32_LANES);
        let near = (NEAR / (S::F32_LANES * self.into)).max(1).next_multiple_of(3);
        let blocks = rows / ROWS;
        // A core's own cache holds the rows that are worked on, so that memory is read as it is.
        let mut room = vec![0.0; ROWS * W::room(self.into)];
        for first in (0..panels).step_by(near) {
            let panels = first..panels.min(first + near);
            for block in 0..blocks {
                self.tiles::<S, ROWS>(simd, panels.clone(), block * ROWS, &mut room);
            }
            for row in blocks * ROWS..rows {
                self.tiles::<S, 1>(simd, panels.clone(), row, &mut room);
            }
        }
    }
}

impl<W: Weight> Share<'_, W> {
    #[inline(always)]
    fn tiles<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        panels: Range<usize>,
        first_row: usize,
        mut room: &mut [f32],
    ) {
        let (weight, into) = (self.weight, self.into);
        let weights: [&[f32]; R] = std::array::from_fn(|row| {
            let start = (first_row + row) * into;
            let (own, others) = std::mem::take(&mut room).split_at_mut(W::room(into));
            room = others;
            W::row(&weight[start..start + into], own)
        });
        // The rows that are worked on next come nearer meanwhile.
        let mut ahead = weight.get((first_row + R) * into..).unwrap_or_default();
        let mut panel = panels.start;
        while panel < panels.end {
            // Three at a time keep both units busy, two are better than two times one.
            match panels.end - panel {
                1 => {
                    self.tile::<S, R, 1>(simd, panel, first_row, weights, ahead);
                    panel += 1;
                }
                2 | 4 => {
                    self.tile::<S, R, 2>(simd, panel, first_row, weights, ahead);
                    panel += 2;
                }
                _ => {
                    self.tile::<S, R, 3>(simd, panel, first_row, weights, ahead);
                    panel += 3;
                }
            }
            ahead = &[];
        }
    }

    /// The product of `P` panels, from `panel` on, with `R` rows of the weight.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const P: usize>(
        &mut self,
        simd: S,
        panel: usize,
        first_row: usize,
        weights: [&[f32]; R],
        ahead: &[W],
    ) {
        let (lanes, into) = (S::F32_LANES, self.into);
        let panels: [&[S::f32s]; P] = std::array::from_fn(|p| {
            let start = (panel + p) * into * lanes;
            S::as_simd_f32s(&self.panels[start..start + into * lanes]).0
        });
        let sums = sums(simd, panels, weights, ahead);
        for p in 0..P {
            let mut transposed = [[0.0; MOST_LANES]; R];
            for (to, sums) in transposed.iter_mut().zip(&sums) {
                S::as_mut_simd_f32s(&mut to[..lanes]).0[0] = sums[p];
            }
            let tokens = self.out.iter_mut().skip((panel + p) * lanes).take(lanes);
            for (lane, token) in tokens.enumerate() {
                let columns = &mut token[first_row..first_row + R];
                columns.iter_mut().zip(&transposed).for_each(|(out, sums)| *out = sums[lane]);
            }
        }
    }
}

/// For each row of the weight, its products with all tokens of some panels. On the way, as many values
/// `ahead` are asked for.
#[inline(always)]
fn sums<S: Simd, const R: usize, const P: usize, W>(
    simd: S,
    panels: [&[S::f32s]; P],
    rows: [&[f32]; R],
    ahead: &[W],
) -> [[S::f32s; P]; R] {
    // Arrays inside the loop: their bounds are known.
    let stepped_panels = panels.map(|panel| panel.as_chunks::<STEP>().0);
    let stepped_rows = rows.map(|row| row.as_chunks::<STEP>().0);
    let steps = stepped_rows[0].len();
    let mut sums = [[simd.splat_f32s(0.0); P]; R];
    for at in 0..steps {
        let x: [&[S::f32s; STEP]; P] = std::array::from_fn(|p| &stepped_panels[p][at]);
        let w: [&[f32; STEP]; R] = std::array::from_fn(|row| &stepped_rows[row][at]);
        if !ahead.is_empty() {
            for row in 0..R {
                fetch(ahead, (at * R + row) * STEP);
            }
        }
        for k in 0..STEP {
            for row in 0..R {
                let weight = simd.splat_f32s(w[row][k]);
                for p in 0..P {
                    sums[row][p] = simd.mul_add_f32s(weight, x[p][k], sums[row][p]);
                }
            }
        }
    }
    for k in steps * STEP..rows[0].len() {
        for row in 0..R {
            let weight = simd.splat_f32s(rows[row][k]);
            for p in 0..P {
                sums[row][p] = simd.mul_add_f32s(weight, panels[p][k], sums[row][p]);
            }
        }
    }
    sums
}

/// Asks for the line of memory that holds a value. What processors read ahead by themselves ends at each
/// page, which a few rows fill.
#[inline(always)]
#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "takes a pointer"))]
fn fetch<W>(values: &[W], at: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: the address is only hinted at: nothing is read that a program could see, and one that
        // is no memory's is let pass.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(values.as_ptr().wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, at);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: u64, count: usize) -> Vec<f32> {
        let mut random = crate::rng::stream(seed, "skinny", &[]);
        (0..count).map(|_| random.unit_f32() - 0.5).collect()
    }

    fn product<W: Weight>(x: &[f32], weight: &[W], shape: [usize; 3]) -> Vec<f32> {
        let mut y = vec![f32::NAN; shape[0] * shape[2]];
        super::product(x, weight, shape, &mut y);
        y
    }

    #[test]
    fn every_token_alone_gives_the_same_bits() {
        for (tokens, into, out) in
            [(1, 1, 1), (5, 7, 3), (16, 64, 40), (70, 33, 530), (33, 96, 17), (2, 20_000, 9), (100, 4_000, 9)]
        {
            let (x, weight) = (values(1, tokens * into), values(2, into * out));
            let all = product(&x, &weight, [tokens, into, out]);
            for (token, (x, y)) in x.chunks(into).zip(all.chunks(out)).enumerate() {
                assert_eq!(product(x, &weight, [1, into, out]), y, "token {token} of {tokens}");
                for (weight, y) in weight.chunks(into).zip(y) {
                    let exact: f64 = x.iter().zip(weight).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                    assert!((exact - f64::from(*y)).abs() < 1e-5 + 1e-8 * into as f64, "{exact} {y}");
                }
            }
        }
        assert!(product(&[], &values(1, 6), [0, 2, 3]).is_empty());
    }

    /// One row, a block, several panels; and numbers that are special in half precision.
    #[test]
    fn half_weights_are_those_numbers_in_f32() {
        for (tokens, into, out) in [(1, 7, 3), (1, 64, 40), (16, 33, 8), (70, 33, 19), (2, 20_000, 9)] {
            let (x, mut weight) = (values(1, tokens * into), values(2, into * out));
            weight[0] = 1e-40;
            weight[1] = -6e-8;
            let shape = [tokens, into, out];
            let in_bf16: Vec<bf16> = weight.iter().map(|w| bf16::from_f32(*w)).collect();
            let wide: Vec<f32> = in_bf16.iter().map(|w| w.to_f32()).collect();
            assert_eq!(product(&x, &in_bf16, shape), product(&x, &wide, shape));
            let in_f16: Vec<f16> = weight.iter().map(|w| f16::from_f32(*w)).collect();
            let wide: Vec<f32> = in_f16.iter().map(|w| w.to_f32()).collect();
            assert_eq!(product(&x, &in_f16, shape), product(&x, &wide, shape));
        }
    }
}
