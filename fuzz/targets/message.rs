//! `fuzz-message`: see [`tunnel_fuzz::message`].
#![no_main]
#![allow(unsafe_code)]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tunnel_fuzz::message::check(bytes));
