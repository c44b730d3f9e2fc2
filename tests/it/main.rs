//! One binary for all integration tests.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod check;
mod method;
mod plan;
mod schema;
mod tiny;
