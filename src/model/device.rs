//! From the names of a device and a number format in the recipe to those of Burn.

use burn::tensor::{DType, Device};

use crate::params::{DeviceName, Dtype};

/// The device that a name stands for on this machine.
pub fn resolve(name: DeviceName) -> Device {
    match name {
        DeviceName::Auto | DeviceName::Flex => Device::flex(),
    }
}

/// Burn's name of a number format.
pub fn tensor_dtype(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
        Dtype::F16 => DType::F16,
    }
}
