//! With the feature `libtorch`: the program finds LibTorch's libraries where they were at build time.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // From torch-sys's build script; on Windows it says nothing, and the libraries must be in PATH.
    println!("cargo::rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    let Some(folder) = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(std::path::PathBuf::from) else { return };
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", folder.display());
    // Nothing of ours calls a symbol of this library, and linkers leave such libraries out; but it
    // registers the CUDA kernels when it is loaded.
    if folder.join("libtorch_cuda.so").exists() {
        println!("cargo::rustc-link-search=native={}", folder.display());
        println!("cargo::rustc-link-arg=-Wl,--push-state,--no-as-needed,-ltorch_cuda,--pop-state");
    }
}
