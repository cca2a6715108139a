//! What one share costs at least: `make bench-share`.
//!
//! It has no code of its own; the measurements are in `benches/floor.rs`.
