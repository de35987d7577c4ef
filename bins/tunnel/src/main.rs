//! The tunnel command.

fn main() {}
