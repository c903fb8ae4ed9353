//! The gofer's server and client together, against real directories and hostile peers.

mod common;
mod floods;
mod hostile;
mod operations;
mod sealed;
mod tree;
mod watches;
