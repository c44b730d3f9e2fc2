//! Adapters and Trans-PEFT's interventions. Knows models, not recipes or caches.

mod format;
mod lora;
mod trans_peft;

pub use format::{AdapterConfig, load_adapter, save_adapter};
pub use lora::{ReadWeight, attach, attach_new};
pub use trans_peft::TransPeft;
