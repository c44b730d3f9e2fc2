//! Number formats, and changes of them that cost nothing where there is nothing to change.

use burn::tensor::{DType, Tensor};

use crate::params::Dtype;

/// Burn's name of a number format.
pub(crate) fn tensor_dtype(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
        Dtype::F16 => DType::F16,
    }
}

/// In f32; the same tensor where it already is.
pub(crate) fn to_f32<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    to_dtype(tensor, DType::F32)
}

/// In a number format; the same tensor where it already is.
pub(crate) fn to_dtype<const D: usize>(tensor: Tensor<D>, dtype: DType) -> Tensor<D> {
    if tensor.dtype() == dtype { tensor } else { tensor.cast(dtype) }
}
