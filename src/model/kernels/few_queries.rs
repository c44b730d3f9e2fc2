//! Attention's two products where few tokens are new: products of matrices would take longer to prepare than to
//! compute.

use pulp::{Simd, WithSimd};

/// Keys that a query is multiplied with at a time, so that sums need not wait for each other.
const KEYS: usize = 8;

/// Parts of a value that grow at a time, likewise.
const PARTS: usize = 4;

/// `scale * queries keys^T`.
pub(super) struct Scores<'a> {
    /// `[queries, width]`.
    pub(super) queries: &'a [f32],
    /// `[keys, width]`.
    pub(super) keys: &'a [f32],
    pub(super) width: usize,
    pub(super) scale: f32,
    /// For each query its scores, rows `stride` values apart.
    pub(super) out: &'a mut [f32],
    pub(super) stride: usize,
}

impl WithSimd for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let queries = self.queries.chunks_exact(self.width);
        for (query, out) in queries.zip(self.out.chunks_mut(self.stride)) {
            let blocks = self.keys.chunks_exact(KEYS * self.width);
            let rest = blocks.remainder().chunks_exact(self.width);
            let mut columns = out.iter_mut();
            for block in blocks {
                let keys: [&[f32]; KEYS] =
                    std::array::from_fn(|key| &block[key * self.width..(key + 1) * self.width]);
                let dots = dots(simd, query, keys);
                // The array first: what is asked second is taken only where the first has more.
                dots.into_iter().zip(columns.by_ref()).for_each(|(dot, out)| *out = self.scale * dot);
            }
            for (key, out) in rest.zip(columns) {
                *out = self.scale * dots(simd, query, [key])[0];
            }
        }
    }
}

#[inline(always)]
fn dots<S: Simd, const N: usize>(simd: S, query: &[f32], keys: [&[f32]; N]) -> [f32; N] {
    let (query, query_rest) = S::as_simd_f32s(query);
    let keys = keys.map(|key| S::as_simd_f32s(key));
    let mut sums = [simd.splat_f32s(0.0); N];
    for (at, query) in query.iter().enumerate() {
        for (sum, (key, _)) in sums.iter_mut().zip(&keys) {
            *sum = simd.mul_add_f32s(*query, key[at], *sum);
        }
    }
    std::array::from_fn(|key| {
        let rest: f32 = query_rest.iter().zip(keys[key].1).map(|(a, b)| a * b).sum();
        simd.reduce_sum_f32s(sums[key]) + rest
    })
}

/// `out += weights values`.
pub(super) struct Mixed<'a> {
    /// For each query the weights of the values, rows `stride` apart.
    pub(super) weights: &'a [f32],
    pub(super) stride: usize,
    /// `[values, width]`.
    pub(super) values: &'a [f32],
    pub(super) width: usize,
    /// `[queries, width]`.
    pub(super) out: &'a mut [f32],
}

impl WithSimd for Mixed<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let whole = self.width / S::F32_LANES;
        let queries = self.out.chunks_exact_mut(self.width).zip(self.weights.chunks(self.stride));
        for (out, weights) in queries {
            let mut part = 0;
            while part < whole {
                if whole - part >= PARTS {
                    mix::<S, PARTS>(simd, part, weights, self.values, self.width, out);
                    part += PARTS;
                } else {
                    mix::<S, 1>(simd, part, weights, self.values, self.width, out);
                    part += 1;
                }
            }
            for (weight, value) in weights.iter().zip(self.values.chunks_exact(self.width)) {
                let rest = whole * S::F32_LANES;
                out[rest..].iter_mut().zip(&value[rest..]).for_each(|(out, value)| *out += weight * value);
            }
        }
    }
}

/// `N` parts of one query's result, from `part` on.
#[inline(always)]
fn mix<S: Simd, const N: usize>(
    simd: S,
    part: usize,
    weights: &[f32],
    values: &[f32],
    width: usize,
    out: &mut [f32],
) {
    let own = part * S::F32_LANES..(part + N) * S::F32_LANES;
    let out = S::as_mut_simd_f32s(&mut out[own.clone()]).0;
    let mut sums: [S::f32s; N] = std::array::from_fn(|at| out[at]);
    for (weight, value) in weights.iter().zip(values.chunks_exact(width)) {
        let (weight, value) = (simd.splat_f32s(*weight), S::as_simd_f32s(&value[own.clone()]).0);
        for (at, sum) in sums.iter_mut().enumerate() {
            *sum = simd.mul_add_f32s(weight, value[at], *sum);
        }
    }
    out.copy_from_slice(&sums);
}

#[cfg(test)]
mod tests {
    use pulp::Arch;

    use super::*;

    #[test]
    fn both_products_of_any_size() {
        let values = |seed: u64, count: usize| -> Vec<f32> {
            let mut random = crate::rng::stream(seed, "few queries", &[]);
            (0..count).map(|_| random.unit_f32() - 0.5).collect()
        };
        for (queries, keys, width) in [(1, 1, 1), (3, 9, 64), (2, 17, 80), (5, 8, 7), (4, 30, 96)] {
            let (q, k) = (values(1, queries * width), values(2, keys * width));
            let stride = keys + 2;
            let mut scores = vec![f32::NAN; queries * stride];
            let out = &mut scores;
            Arch::new().dispatch(Scores { queries: &q, keys: &k, width, scale: 0.5, out, stride });
            let mut mixed = vec![1.0; queries * width];
            // What lies beyond is neither written nor, by the second product, read.
            for row in scores.chunks(stride) {
                assert!(row[keys..].iter().all(|beyond| beyond.is_nan()), "only its own columns");
            }
            let out = &mut mixed;
            Arch::new().dispatch(Mixed { weights: &scores, stride, values: &k, width, out });
            for query in 0..queries {
                let of = |key: usize| -> f64 {
                    (0..width)
                        .map(|at| f64::from(q[query * width + at]) * f64::from(k[key * width + at]))
                        .sum()
                };
                for key in 0..keys {
                    assert!((f64::from(scores[query * stride + key]) - 0.5 * of(key)).abs() < 1e-5);
                }
                for at in 0..width {
                    let sum: f64 = (0..keys).map(|key| 0.5 * of(key) * f64::from(k[key * width + at])).sum();
                    assert!((f64::from(mixed[query * width + at]) - 1.0 - sum).abs() < 1e-5);
                }
            }
        }
    }
}
