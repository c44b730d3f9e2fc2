//! The `evergraft` program; everything is in the library.

fn main() {
    std::process::exit(evergraft::commands::main());
}
