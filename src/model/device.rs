//! From a device's name in the recipe to a Burn device.

use burn::tensor::Device;

use crate::params::DeviceName;

/// The device that a name stands for on this machine.
pub fn resolve(name: DeviceName) -> Device {
    match name {
        DeviceName::Auto | DeviceName::Flex => Device::flex(),
    }
}
