//! One binary for all integration tests.

mod check;
mod plan;
mod schema;
