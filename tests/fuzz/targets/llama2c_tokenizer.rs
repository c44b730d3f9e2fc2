#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    evergraft_fuzz::in_folder(|dir| drop(evergraft_fuzz::llama2c_tokenizer(dir, bytes)));
});
