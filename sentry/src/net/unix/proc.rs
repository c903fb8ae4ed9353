//! The text of /proc/net/unix.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Phase, UnixAddr};
use crate::kernel::Kernel;
use crate::net::Socket;

/// One line for each socket, as proc(5) has it. Kernel addresses are shown as 0, as to users.
pub fn proc_net_unix(kernel: &Kernel) -> Vec<u8> {
    const ACCEPTS: u32 = 0x10000;
    let mut out = b"Num       RefCount Protocol Flags    Type St Inode Path\n".to_vec();
    for socket in kernel.unix.all() {
        let (phase, bound) = {
            let state = socket.state.lock();
            (state.phase, state.bound.clone())
        };
        let (flags, status) = match phase {
            Phase::Listening { .. } => (ACCEPTS, 1),
            Phase::Connected => (0, 3),
            Phase::Idle => (0, 1),
        };
        let mut line = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            line,
            "{:016x}: {:08X} {:08X} {:08X} {:04X} {:02X} {:5}",
            0,
            Arc::strong_count(&socket).saturating_sub(1),
            0,
            flags,
            socket.kind(),
            status,
            socket.ino.load(Ordering::Relaxed),
        );
        out.extend_from_slice(line.as_bytes());
        match bound.as_ref().map(|b| &b.addr) {
            Some(UnixAddr::Path(path)) => {
                out.push(b' ');
                out.extend_from_slice(path);
            }
            Some(UnixAddr::Abstract(name)) => {
                out.extend_from_slice(b" @");
                out.extend(name.iter().map(|&b| if b == 0 { b'@' } else { b }));
            }
            Some(UnixAddr::Unnamed) | None => {}
        }
        out.push(b'\n');
    }
    out
}
