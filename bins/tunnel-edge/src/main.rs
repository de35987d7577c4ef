//! The tunnel-edge command.

fn main() {}
