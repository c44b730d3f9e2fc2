//! The `evergraft` program; everything is in the library.

fn main() {
    // A panic has already printed its message; scripts get the documented exit code.
    let code = std::panic::catch_unwind(evergraft::commands::main);
    std::process::exit(code.unwrap_or(evergraft::error::exit::BUG));
}
