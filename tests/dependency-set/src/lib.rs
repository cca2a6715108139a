//! Holds the dependencies that later roles bring (the mint) in the one lock file, so that they are known to resolve
//! together before they are needed.
//!
//! Nothing calls it. It has no code; its manifest is what it is for.
