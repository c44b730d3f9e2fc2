//! Evergraft trains an adapter once on an old base model and carries it to the updated base.
//!
//! Data flows one way; no stage skips another:
//!
//! ```text
//! recipe text -> Recipe (spans) -> Plan (petgraph) -> per node StepKey -> cache lookup
//!   -> step runs in a temp dir -> fsync, rename -> Record (the one commit point)
//!   -> digests feed the children's keys -> events, run.json -> report
//! ```

pub mod cache;
pub mod cancel;
pub mod cli;
pub mod commands;
pub mod data;
pub mod device;
pub mod diagnostic;
pub mod digest;
mod durable;
pub mod env;
pub mod error;
mod estimate;
pub mod eval;
pub mod exec;
mod fault;
pub mod hub;
pub mod key;
pub mod model;
pub mod params;
pub mod peft;
pub mod plan;
pub mod progress;
pub mod recipe;
pub mod report;
pub mod rng;
pub mod steps;
pub mod train;
mod units;
