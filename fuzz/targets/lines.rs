//! The SV1 parsers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::lines(data));
