//! The tunnel-cloud command.

fn main() {}
