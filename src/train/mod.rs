//! Training loops: an adapter on a frozen base, or all parameters. Knows models and adapters, not
//! recipes or caches.

mod adamw;
mod best;
mod checkpoint;
mod course;
mod data;
mod divergence;
mod evaluate;
mod loss;
mod memory;
mod passes;
mod rates;
mod record;
mod schedule;
mod signatures;
mod state;
mod trainer;
mod update;

pub use adamw::AdamW;
pub use data::Order;
pub use evaluate::hold_out;
pub use loss::{Loss, cross_entropy, loss_sum};
pub use memory::{pass_bytes, state_bytes};
pub use record::{Evaluation, HeldOut, Intervention, MeanRates, Summary, Update, Watch};
pub use schedule::Schedule;
pub use trainer::{Finished, Subject, Trainer};
