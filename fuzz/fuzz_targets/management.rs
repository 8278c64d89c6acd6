#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| natgate_fuzz::support::requests::management(bytes));
