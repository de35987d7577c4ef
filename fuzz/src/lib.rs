//! What must hold for any bytes: each module's `check` panics where it doesn't.
//!
//! The fuzzer calls these through the programs in `targets/`; `cargo test -p tunnel-fuzz` calls them with the committed corpus and needs no fuzzer.

pub mod connect;
mod cursor;
pub mod message;
pub mod stream;
pub mod tokens;
