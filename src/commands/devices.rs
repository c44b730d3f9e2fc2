//! `evergraft devices`.

use serde_json::json;

use super::shared::{print, print_json, table};
use crate::{
    cli::{DevicesArgs, Format},
    device,
    error::Error,
    params::DeviceName,
};

pub(super) fn run(args: &DevicesArgs) -> Result<(), Error> {
    let present: Vec<DeviceName> = device::present().collect();
    if args.format == Format::Json {
        let libtorch = DeviceName::LibTorch.is_compiled_in();
        return print_json(&json!({ "auto": present.first(), "present": present, "libtorch": libtorch }));
    }
    let row = |name: &DeviceName| {
        let about = match name {
            DeviceName::Auto | DeviceName::Flex => "pure Rust, CPU",
            DeviceName::LibTorch => "LibTorch, CPU",
            DeviceName::LibTorchCuda(_) => "LibTorch, CUDA",
        };
        let auto = if Some(name) == present.first() { "  (auto)" } else { "" };
        vec![name.to_string(), format!("{about}{auto}")]
    };
    print(&table(&present.iter().map(row).collect::<Vec<_>>()))?;
    if !DeviceName::LibTorch.is_compiled_in() {
        print(
            "built without LibTorch; `scripts/libtorch.sh cargo build --release --features libtorch` adds it\n",
        )?;
    }
    Ok(())
}
