//! Options of `SOL_SOCKET` (socket(7)) that all families share.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::Errno;
use abi::time::Timeval;
use zerocopy::{FromBytes, IntoBytes};

use super::{Socket, Ucred};
use crate::kernel::{Caps, Credentials};

/// Default size of a buffer (`/proc/sys/net/core/{r,w}mem_default`).
pub const DEFAULT_BUFFER: u32 = 212_992;
/// What a user may ask for (`/proc/sys/net/core/{r,w}mem_max`).
const MAX_BUFFER: u32 = 212_992;
/// The most that even `SO_SNDBUFFORCE` gives.
const MAX_FORCED: u32 = 8 << 20;
const MIN_SEND: u32 = 4608;
const MIN_RECEIVE: u32 = 2304;

const SO_PASSSEC: i32 = 34;
const SO_TIMESTAMP_NEW: i32 = 63;
const SO_TIMESTAMPNS_NEW: i32 = 64;
const SO_RCVTIMEO_NEW: i32 = 66;
const SO_SNDTIMEO_NEW: i32 = 67;

/// The options' values.
pub struct Options {
    send_buffer: AtomicU32,
    receive_buffer: AtomicU32,
    low_mark: AtomicU32,
    /// Nanoseconds; 0 is none.
    receive_timeout: AtomicU64,
    send_timeout: AtomicU64,
    /// Those that are on or off, by number.
    switches: AtomicU64,
    linger: AtomicU64,
    priority: AtomicU32,
    mark: AtomicU32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            send_buffer: AtomicU32::new(DEFAULT_BUFFER),
            receive_buffer: AtomicU32::new(DEFAULT_BUFFER),
            low_mark: AtomicU32::new(1),
            receive_timeout: AtomicU64::new(0),
            send_timeout: AtomicU64::new(0),
            switches: AtomicU64::new(0),
            linger: AtomicU64::new(0),
            priority: AtomicU32::new(0),
            mark: AtomicU32::new(0),
        }
    }
}

/// Whether an option is a switch; `SO_REUSEPORT` and the like have no meaning for Unix sockets but
/// are kept, as on Linux.
fn is_switch(name: i32) -> bool {
    matches!(
        name,
        libc::SO_REUSEADDR
            | libc::SO_REUSEPORT
            | libc::SO_KEEPALIVE
            | libc::SO_BROADCAST
            | libc::SO_DONTROUTE
            | libc::SO_OOBINLINE
            | libc::SO_PASSCRED
            | libc::SO_TIMESTAMP
            | libc::SO_TIMESTAMPNS
            | SO_PASSSEC
            | SO_TIMESTAMP_NEW
            | SO_TIMESTAMPNS_NEW
    )
}

impl Options {
    /// `SO_SNDBUF`
    pub fn send_buffer(&self) -> usize {
        self.send_buffer.load(Ordering::Relaxed) as usize
    }

    /// `SO_RCVBUF`
    pub fn receive_buffer(&self) -> usize {
        self.receive_buffer.load(Ordering::Relaxed) as usize
    }

    /// Whether a switch is on.
    pub fn is_on(&self, name: i32) -> bool {
        self.switches.load(Ordering::Relaxed) >> (name & 63) & 1 != 0
    }

    /// `SO_SNDTIMEO` or `SO_RCVTIMEO`, in nanoseconds.
    pub fn timeout(&self, write: bool) -> Option<u64> {
        let timeout = if write { &self.send_timeout } else { &self.receive_timeout };
        Some(timeout.load(Ordering::Relaxed)).filter(|&ns| ns != 0)
    }

    /// Copies what accept(2) hands on to the new socket.
    pub fn inherit(&self, from: &Options) {
        self.send_buffer.store(from.send_buffer.load(Ordering::Relaxed), Ordering::Relaxed);
        self.switches.store(from.switches.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

fn int(value: &[u8]) -> Result<i32, Errno> {
    i32::read_from_prefix(value).map(|(v, _)| v).map_err(|_| Errno::EINVAL)
}

fn timeval(value: &[u8]) -> Result<u64, Errno> {
    let (tv, _) = Timeval::read_from_prefix(value).map_err(|_| Errno::EINVAL)?;
    if !(0..1_000_000).contains(&tv.usec) {
        return Err(Errno::EDOM);
    }
    if tv.sec < 0 {
        // Linux: a negative timeout is over at once.
        return Ok(1);
    }
    tv.to_ns().ok_or(Errno::EDOM)
}

/// A buffer size as Linux keeps it: doubled, within bounds.
fn buffer(asked: i32, max: u32, min: u32) -> u32 {
    (asked as u32).min(max).saturating_mul(2).max(min)
}

/// setsockopt(2) of `SOL_SOCKET`.
pub fn set(socket: &dyn Socket, name: i32, value: &[u8], cred: &Credentials) -> Result<(), Errno> {
    let options = socket.options();
    let number = int(value)?;
    let need = |cap| if cred.capable(cap) { Ok(()) } else { Err(Errno::EPERM) };
    match name {
        libc::SO_SNDBUF | libc::SO_SNDBUFFORCE => {
            let max = if name == libc::SO_SNDBUF { MAX_BUFFER } else { MAX_FORCED };
            if name == libc::SO_SNDBUFFORCE {
                need(Caps::NET_ADMIN)?;
            }
            options.send_buffer.store(buffer(number, max, MIN_SEND), Ordering::Relaxed);
            socket.send_buffer_changed();
        }
        libc::SO_RCVBUF | libc::SO_RCVBUFFORCE => {
            let max = if name == libc::SO_RCVBUF { MAX_BUFFER } else { MAX_FORCED };
            if name == libc::SO_RCVBUFFORCE {
                need(Caps::NET_ADMIN)?;
            }
            options.receive_buffer.store(buffer(number, max, MIN_RECEIVE), Ordering::Relaxed);
        }
        libc::SO_RCVTIMEO | SO_RCVTIMEO_NEW => {
            options.receive_timeout.store(timeval(value)?, Ordering::Relaxed);
        }
        libc::SO_SNDTIMEO | SO_SNDTIMEO_NEW => {
            options.send_timeout.store(timeval(value)?, Ordering::Relaxed);
        }
        libc::SO_RCVLOWAT => {
            let mark = if number < 0 { i32::MAX } else { number.max(1) };
            options.low_mark.store(mark as u32, Ordering::Relaxed);
        }
        libc::SO_LINGER => {
            let (pair, _) = <[i32; 2]>::read_from_prefix(value).map_err(|_| Errno::EINVAL)?;
            let bits = u64::from(pair[0] as u32 != 0) | (u64::from(pair[1] as u32) << 32);
            options.linger.store(bits, Ordering::Relaxed);
        }
        libc::SO_PRIORITY => {
            if !(0..=6).contains(&number) {
                need(Caps::NET_ADMIN)?;
            }
            options.priority.store(number as u32, Ordering::Relaxed);
        }
        libc::SO_MARK => {
            need(Caps::NET_ADMIN)?;
            options.mark.store(number as u32, Ordering::Relaxed);
        }
        _ if is_switch(name) => {
            let bit = 1 << (name & 63);
            if number != 0 {
                options.switches.fetch_or(bit, Ordering::Relaxed);
            } else {
                options.switches.fetch_and(!bit, Ordering::Relaxed);
            }
        }
        _ => return socket.set_option(libc::SOL_SOCKET, name, value),
    }
    Ok(())
}

/// getsockopt(2) of `SOL_SOCKET`.
pub fn get(socket: &dyn Socket, name: i32) -> Result<Vec<u8>, Errno> {
    let options = socket.options();
    let of_int = |value: i32| Ok(value.as_bytes().to_vec());
    let of_time =
        |ns: &AtomicU64| Ok(Timeval::from_ns(ns.load(Ordering::Relaxed)).as_bytes().to_vec());
    match name {
        libc::SO_TYPE => of_int(socket.kind()),
        libc::SO_DOMAIN => of_int(socket.domain()),
        libc::SO_PROTOCOL => of_int(socket.protocol()),
        libc::SO_ERROR => of_int(socket.take_error().map_or(0, Errno::raw)),
        libc::SO_ACCEPTCONN => of_int(i32::from(socket.is_listening())),
        libc::SO_SNDBUF => of_int(options.send_buffer() as i32),
        libc::SO_RCVBUF => of_int(options.receive_buffer() as i32),
        libc::SO_RCVLOWAT => of_int(options.low_mark.load(Ordering::Relaxed) as i32),
        libc::SO_SNDLOWAT => of_int(1),
        libc::SO_RCVTIMEO | SO_RCVTIMEO_NEW => of_time(&options.receive_timeout),
        libc::SO_SNDTIMEO | SO_SNDTIMEO_NEW => of_time(&options.send_timeout),
        libc::SO_LINGER => {
            let bits = options.linger.load(Ordering::Relaxed);
            Ok([bits as i32, (bits >> 32) as i32].as_bytes().to_vec())
        }
        libc::SO_PRIORITY => of_int(options.priority.load(Ordering::Relaxed) as i32),
        libc::SO_MARK => of_int(options.mark.load(Ordering::Relaxed) as i32),
        libc::SO_PEERCRED => {
            let cred: Ucred = socket.peer_cred();
            Ok(cred.as_bytes().to_vec())
        }
        _ if is_switch(name) => of_int(i32::from(options.is_on(name))),
        _ => socket.get_option(libc::SOL_SOCKET, name),
    }
}
