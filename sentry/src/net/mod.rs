//! Sockets: the layer that all address families share, and the families.
//!
//! * [`Socket`] is what a family implements; [`SocketFile`] makes it an open file.
//! * [`unix`] is AF_UNIX. Other families are refused (`EAFNOSUPPORT`), as by a kernel without them.
//!
//! Nothing here blocks: calls say `EAGAIN` and are repeated by `Task::block_on`.
//!
//! Lock order: names -> in-flight table -> a socket's incoming queue -> wait queues. A socket's
//! state is a leaf that is never held together with another socket's.

pub mod control;
pub mod options;
pub mod socket;
pub mod unix;

pub use socket::{MsgFlags, Received, RecvArgs, SendArgs, Shutdown, Socket, SocketFile, Ucred};
