//! Adapters and Trans-PEFT's interventions. Knows models, not recipes or caches.

mod bottleneck;
mod config;
mod format;
mod lora;
mod merge;
mod size;
mod targets;
mod trans_peft;

pub use bottleneck::BottleneckConfig;
pub use config::AdapterConfig;
pub use format::{ADAPTER_FILES, Adapter};
pub use lora::ReadWeight;
pub use merge::Merged;
pub use trans_peft::TransPeft;
