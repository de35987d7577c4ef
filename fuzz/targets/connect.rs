//! `fuzz-connect`: see [`tunnel_fuzz::connect`].
#![no_main]
#![allow(unsafe_code)]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tunnel_fuzz::connect::check(bytes));
