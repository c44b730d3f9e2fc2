//! Training loops: an adapter on a frozen base, or all parameters. Knows models and adapters, not
//! recipes or caches.

mod adamw;
mod data;
mod loss;
mod memory;
mod schedule;
mod trainer;

pub use adamw::AdamW;
pub use data::Order;
pub use loss::{Loss, cross_entropy};
pub use memory::{pass_bytes, state_bytes};
pub use schedule::Schedule;
pub use trainer::{Subject, Summary, Trainer, Update};
