#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Only an index begins like this; a file of weights begins with a length below 2^56.
    if bytes.first() == Some(&b'{') && bytes.get(7) != Some(&0) {
        evergraft_fuzz::in_folder(|dir| drop(evergraft_fuzz::safetensors_index(dir, bytes)));
    } else {
        evergraft_fuzz::in_folder(|dir| drop(evergraft_fuzz::safetensors(dir, bytes)));
    }
});
