#![no_main]
#[path = "../../tests/kit/fuzz.rs"]
#[allow(dead_code)]
mod fuzz;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::tls_rpt(data));
