//! `device:`, the names of what may compute.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::common::Problem;

/// Where tensors live and are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DeviceName {
    /// The best device that is present and compiled in.
    #[default]
    Auto,
    /// Pure-Rust CPU.
    Flex,
    /// LibTorch on the CPU.
    LibTorch,
    /// LibTorch on the CUDA device of this index.
    LibTorchCuda(usize),
}

impl DeviceName {
    /// As recipes write them, one of each kind.
    const EXAMPLES: [&str; 4] = ["auto", "flex", "libtorch", "libtorch:cuda:0"];

    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "auto" => Self::Auto,
            "flex" | "cpu" => Self::Flex,
            "libtorch" => Self::LibTorch,
            "libtorch:cuda" => Self::LibTorchCuda(0),
            _ => {
                let index = text.strip_prefix("libtorch:cuda:")?;
                let plain = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
                // More cards than any machine has; keeps the index small for those who take it on.
                let index = index.parse().ok().filter(|index| plain && *index < 1024)?;
                Self::LibTorchCuda(index)
            }
        })
    }

    /// Whether this program was built with what computes there.
    pub fn is_compiled_in(self) -> bool {
        match self {
            Self::Auto | Self::Flex => true,
            Self::LibTorch | Self::LibTorchCuda(_) => cfg!(feature = "libtorch"),
        }
    }

    /// How to build a program that has it.
    pub(crate) fn build_hint() -> String {
        "build evergraft with `scripts/libtorch.sh cargo build --release --features libtorch`, or take \
         `device: auto`"
            .to_owned()
    }

    /// A problem where the program was built without it.
    pub(super) fn check(self) -> Option<Problem> {
        (!self.is_compiled_in()).then(|| {
            let message =
                format!("names `{self}`, but this evergraft was built without the feature `libtorch`");
            Problem::new("device", message).hint(Self::build_hint())
        })
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Flex => f.write_str("flex"),
            Self::LibTorch => f.write_str("libtorch"),
            Self::LibTorchCuda(index) => write!(f, "libtorch:cuda:{index}"),
        }
    }
}

impl Serialize for DeviceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::unknown_variant(&text, &Self::EXAMPLES))
    }
}

impl JsonSchema for DeviceName {
    fn schema_name() -> Cow<'static, str> {
        "DeviceName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Where tensors live and are computed.",
            "oneOf": [
                { "const": "auto", "type": "string",
                  "description": "The best device that is present and compiled in." },
                { "const": "flex", "type": "string", "description": "Pure-Rust CPU." },
                { "const": "libtorch", "type": "string",
                  "description": "LibTorch on the CPU; needs a build with `--features libtorch`." },
                { "pattern": "^libtorch:cuda:[0-9]+$", "type": "string",
                  "description": "LibTorch on a CUDA device, such as `libtorch:cuda:0`; needs the same build." },
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_they_were_written() {
        for text in DeviceName::EXAMPLES {
            assert_eq!(DeviceName::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(DeviceName::parse("cpu"), Some(DeviceName::Flex));
        assert_eq!(DeviceName::parse("libtorch:cuda"), Some(DeviceName::LibTorchCuda(0)));
        for wrong in
            ["", "cuda:0", "libtorch:", "libtorch:cuda:", "libtorch:cuda:+1", "libtorch:cuda:9999", "Flex"]
        {
            assert_eq!(DeviceName::parse(wrong), None, "{wrong}");
        }
    }
}
