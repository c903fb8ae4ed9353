//! The file systems: one module or folder each, all behind the traits of [`crate::vfs`].

pub mod anon;
pub mod dev;
pub mod epoll;
pub mod eventfd;
pub mod gofer;
pub mod host;
pub mod inotify;
pub mod mqueue;
pub mod overlay;
pub mod pipe;
pub mod proc;
pub mod pseudo;
pub mod signalfd;
pub mod sys;
pub mod timerfd;
pub mod tmpfs;
