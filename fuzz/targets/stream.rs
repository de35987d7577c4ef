//! `fuzz-stream`: see [`tunnel_fuzz::stream`].
#![no_main]
#![allow(unsafe_code)]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tunnel_fuzz::stream::check(bytes));
