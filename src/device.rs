//! What computes: from a device's name in the recipe to a Burn device, and what this machine has.

use std::sync::LazyLock;

use burn::tensor::Device;

use crate::{
    error::hinted,
    params::{DeviceName, Dtype},
};

/// Every device of this machine that the program was built for, the best first.
pub fn present() -> impl Iterator<Item = DeviceName> {
    let cpu = [DeviceName::Flex, DeviceName::LibTorch];
    (0..cuda_count())
        .map(DeviceName::LibTorchCuda)
        .chain(cpu.into_iter().filter(|device| device.is_compiled_in()))
}

/// The device that a name stands for; for `auto`, the best one.
fn chosen(name: DeviceName) -> DeviceName {
    match name {
        DeviceName::Auto => present().next().unwrap_or(DeviceName::Flex),
        named => named,
    }
}

/// What may change a result's bytes: keys hold it instead of the name.
pub fn class(name: DeviceName, dtype: Dtype) -> &'static str {
    match chosen(name) {
        DeviceName::Auto | DeviceName::Flex => "flex",
        DeviceName::LibTorch if dtype == Dtype::Bf16 && *BF16_UNITS => "libtorch:bf16",
        DeviceName::LibTorch => "libtorch:cpu",
        DeviceName::LibTorchCuda(_) => "libtorch:cuda",
    }
}

/// The device that a name stands for on this machine.
///
/// # Errors
/// When the program was built without it, or the machine has no such device.
pub fn resolve(name: DeviceName) -> anyhow::Result<Device> {
    let name = chosen(name);
    if !name.is_compiled_in() {
        let message = format!("device `{name}`: this evergraft was built without the feature `libtorch`");
        return Err(hinted(message, DeviceName::build_hint()));
    }
    match name {
        DeviceName::Auto | DeviceName::Flex => Ok(Device::flex()),
        DeviceName::LibTorch => Ok(libtorch::cpu()),
        DeviceName::LibTorchCuda(index) if index < cuda_count() => Ok(libtorch::cuda(index)),
        DeviceName::LibTorchCuda(_) => {
            let message = match cuda_count() {
                0 => format!("there is no device `{name}`: LibTorch finds no CUDA device"),
                1 => {
                    format!("there is no device `{name}`: LibTorch finds one CUDA device, `libtorch:cuda:0`")
                }
                count => format!(
                    "there is no device `{name}`: LibTorch finds {count} CUDA devices, counted from 0"
                ),
            };
            Err(hinted(message, "`evergraft devices` lists what is there"))
        }
    }
}

/// Whether the processor multiplies faster in bf16 than in f32: with Intel's matrix units, and with AMD's
/// AVX-512 (seen: 435 GFLOP/s against 200), but not with Intel's AVX-512 alone (seen: 173 against 325).
static BF16_UNITS: LazyLock<bool> = LazyLock::new(|| {
    let about = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    about.contains("amx_bf16") || about.contains("AuthenticAMD") && about.contains("avx512_bf16")
});

/// Whether the device has units for products of this number format.
pub(crate) fn multiplies(device: &Device, dtype: Dtype) -> bool {
    let device = device.clone().inner();
    match dtype {
        Dtype::F32 => true,
        _ if device == Device::flex() => false,
        Dtype::Bf16 if libtorch::is_cpu(&device) => *BF16_UNITS,
        Dtype::F16 if libtorch::is_cpu(&device) => false,
        Dtype::Bf16 | Dtype::F16 => true,
    }
}

/// Does work that is many small parallel loops on the CPU on a thread of the pool that runs them, so that
/// none has to be handed over first, which would put this thread to sleep each time.
pub(crate) fn run_on<T: Send>(device: &Device, work: impl FnOnce() -> T + Send) -> T {
    match device.clone().inner() == Device::flex() {
        true => rayon::scope(|_| work()),
        false => work(),
    }
}

/// How many CUDA devices LibTorch finds. Asking starts the driver, so it is asked once, and only where
/// the answer matters.
fn cuda_count() -> usize {
    static COUNT: LazyLock<usize> = LazyLock::new(libtorch::cuda_count);
    *COUNT
}

#[cfg(feature = "libtorch")]
#[expect(deprecated, reason = "burn is pinned to the last release that has LibTorch")]
mod libtorch {
    use burn::tensor::{Device, DeviceType};

    pub(super) fn cpu() -> Device {
        Device::libtorch()
    }

    pub(super) fn is_cpu(device: &Device) -> bool {
        *device == Device::libtorch()
    }

    pub(super) fn cuda(index: usize) -> Device {
        Device::libtorch_cuda(index)
    }

    /// Burn lists LibTorch's CUDA devices alone.
    pub(super) fn cuda_count() -> usize {
        Device::enumerate(DeviceType::LibTorch).into_iter().count()
    }
}

#[cfg(not(feature = "libtorch"))]
mod libtorch {
    use burn::tensor::Device;

    pub(super) fn cpu() -> Device {
        unreachable!("`resolve` refuses what was not compiled in")
    }

    pub(super) fn is_cpu(_: &Device) -> bool {
        false
    }

    pub(super) fn cuda(_: usize) -> Device {
        cpu()
    }

    pub(super) fn cuda_count() -> usize {
        0
    }
}
