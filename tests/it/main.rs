//! One binary for all integration tests.

mod method;
mod tiny;
