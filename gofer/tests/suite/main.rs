//! The gofer's server and client together, against real directories and hostile peers.

mod common;
mod hostile;
mod operations;
mod sealed;
mod tree;
