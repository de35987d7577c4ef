//! `fuzz-tokens`: see [`tunnel_fuzz::tokens`].
#![no_main]
#![allow(unsafe_code)]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tunnel_fuzz::tokens::check(bytes));
