//! Frames of the stats protocol, and what a service makes of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::frames(data));
