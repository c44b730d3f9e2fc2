//! One binary for all integration tests.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cache;
mod check;
mod damage;
mod devices;
mod engine;
mod estimate;
mod eval;
mod faults;
mod hostile;
mod hub;
mod hub_run;
mod hub_server;
mod import;
mod insight;
mod isolation;
mod kill;
mod language;
mod layers;
mod memory;
mod method;
mod parity;
mod pipeline;
mod plan;
mod processes;
mod properties;
mod remote;
mod run;
mod scheduling;
mod schema;
mod sharing;
mod space;
mod tiny;
mod tokenizer;
mod tokenizer_chat;
mod training;
