//! A miner's whole session at a translator.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::session(data));
