//! The file broker: protocol, server process, client.
//!
//! The *gofer* is the only process of a sandbox that can name a host file. It serves a set of
//! *exports* (directory trees or single files) to the Sentry over Unix sockets. The Sentry names
//! files by *node id*, a number that stands for an `O_PATH` descriptor in the gofer, plus single
//! path components; a path never crosses the socket. Opened regular files go back as descriptors
//! and are then read, written and mapped without the gofer. Directory descriptors are never handed
//! over: they would be a way out of the tree.
//!
//! * [`wire`]: the messages and their bounded, versioned binary encoding.
//! * [`server`]: what runs in the gofer process.
//! * [`client`]: what the Sentry links.
//!
//! Identity: attributes are the host's as seen from the gofer's user namespace. Nothing here
//! decides what a *guest* user may do; the Sentry checks the guest's credentials before it asks.
//! What the gofer does decide: nothing outside an export, nothing hidden by its filter, no change
//! to a read-only export, no devices.

pub mod client;
mod cpu;
pub mod server;
mod sys;
mod transport;
pub mod wire;

pub use transport::socket_pair;
