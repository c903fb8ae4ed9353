//! The `rsentry` command.

fn main() {}
