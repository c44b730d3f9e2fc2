//! Products of parts of matrices that lie in slices: Burn's own product takes whole tensors.

use rayon::prelude::*;

/// A matrix inside a slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    /// Distance between two rows, and between two columns.
    strides: [usize; 2],
}

impl<'a> View<'a> {
    /// Rows one after another.
    pub(super) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert!(data.len() >= rows * columns, "a matrix of {rows} x {columns} in {} values", data.len());
        Self { data, rows, columns, strides: [columns, 1] }
    }

    /// Some of its columns.
    pub(super) fn columns(self, columns: std::ops::Range<usize>) -> Self {
        assert!(columns.end <= self.columns, "columns {columns:?} of {}", self.columns);
        let data = &self.data[(columns.start * self.strides[1]).min(self.data.len())..];
        Self { data, columns: columns.len(), ..self }
    }

    /// Rows and columns exchanged.
    pub(super) fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows, strides: [self.strides[1], self.strides[0]], ..self }
    }
}

/// Who works on a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// The calling thread, which is one of several at similar work.
    This,
    /// All of them.
    All,
}

/// `out = factor * a b`, or `out += factor * a b`.
///
/// # Shapes
/// `a` is `[m, k]`, `b` is `[k, n]`, `out` holds `[m, n]`, rows one after another.
pub(super) fn product(
    out: &mut [f32],
    accumulate: bool,
    factor: f32,
    a: View<'_>,
    b: View<'_>,
    threads: Threads,
) {
    product_into(out, b.columns, accumulate, factor, a, b, threads);
}

/// The same where rows of `out` begin `stride` values apart.
#[expect(unsafe_code, reason = "the product's only form takes pointers")]
pub(super) fn product_into(
    out: &mut [f32],
    stride: usize,
    accumulate: bool,
    factor: f32,
    a: View<'_>,
    b: View<'_>,
    threads: Threads,
) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert!(b.rows == k, "a product of {m} x {k} and {} x {n}", b.rows);
    assert!(stride >= n && out.len() + stride >= m * stride + n, "{m} rows of {n} in {} values", out.len());
    let parallelism = match threads {
        Threads::This => gemm::Parallelism::None,
        Threads::All => gemm::Parallelism::Rayon(0),
    };
    let strides = |view: View<'_>| view.strides.map(usize::cast_signed);
    let ([a_row, a_column], [b_row, b_column]) = (strides(a), strides(b));
    // SAFETY: a view holds `rows * columns` values, rows or columns dense, so that every place it
    // names lies in its slice (checked where it is made); `out` holds `m` rows of `n` values (checked
    // above) and, borrowed mutably, overlaps neither.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride.cast_signed(),
            accumulate,
            a.data.as_ptr(),
            a_column,
            a_row,
            b.data.as_ptr(),
            b_column,
            b_row,
            1.0_f32,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Values that one thread has set to zero before another is worth waking.
const FEW: usize = 1 << 17;

/// Room for results. All threads touch it: the system clears new pages at their first touch, which is work.
pub(super) fn zeros(count: usize) -> Vec<f32> {
    match count {
        ..FEW => vec![0.0; count],
        _ => rayon::iter::repeat_n(0.0, count).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_views() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let b = [1.0, 0.0, 2.0, 1.0, 0.0, 1.0];
        let (a, b) = (View::new(&a, 2, 3), View::new(&b, 3, 2));
        let mut out = [0.0; 4];
        product(&mut out, false, 1.0, a, b, Threads::This);
        assert_eq!(out, [5.0, 5.0, 14.0, 11.0]);
        product(&mut out, true, 2.0, b.transposed(), a.transposed(), Threads::All);
        assert_eq!(out, [15.0, 33.0, 24.0, 33.0]);
    }

    #[test]
    fn products_of_parts_of_views() {
        let a = View::new(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3).columns(1..3);
        let b = View::new(&[1.0, 0.0, 2.0, 1.0], 2, 2);
        let mut out = [-1.0; 5];
        product_into(&mut out, 3, false, 1.0, a, b, Threads::This);
        assert_eq!(out, [8.0, 3.0, -1.0, 17.0, 6.0]);
    }

    #[test]
    #[should_panic(expected = "a matrix of 2 x 3")]
    fn a_view_lies_in_its_slice() {
        View::new(&[0.0; 5], 2, 3);
    }
}
