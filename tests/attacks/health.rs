//! Whether the kernel still works for the calling process.

use std::io::{Read, Write};

use super::asm;

/// Uses a bit of everything; says what does not work.
pub fn check() -> Result<(), String> {
    let pid = i64::from(std::process::id());
    let got = asm::syscall(libc::SYS_getpid as u64, [0; 6]);
    if got != pid {
        return Err(format!("getpid: {got}, not {pid}"));
    }
    if asm::getpid_loop(20) != pid as u64 * 20 {
        return Err("getpid in a loop is wrong".into());
    }
    if asm::syscall(0xffff, [0; 6]) != -i64::from(libc::ENOSYS) {
        return Err("an unknown system call does not say ENOSYS".into());
    }
    let mut ends = [0; 2];
    // SAFETY: writes two descriptors, which are owned by files from there on.
    let (mut reader, mut writer) = unsafe {
        if libc::pipe(ends.as_mut_ptr()) != 0 {
            return Err("pipe".into());
        }
        use std::os::fd::FromRawFd;
        (std::fs::File::from_raw_fd(ends[0]), std::fs::File::from_raw_fd(ends[1]))
    };
    let mut word = [0; 8];
    writer.write_all(b"eight by").map_err(|e| format!("write: {e}"))?;
    reader.read_exact(&mut word).map_err(|e| format!("read: {e}"))?;
    if &word != b"eight by" {
        return Err(format!("a pipe gives {word:x?}"));
    }
    memory()?;
    if std::thread::spawn(|| 42).join().ok() != Some(42) {
        return Err("a thread did not return".into());
    }
    // SAFETY: the child makes one call only.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(42);
        }
        let mut status = 0;
        if libc::waitpid(child, &mut status, 0) != child || libc::WEXITSTATUS(status) != 42 {
            return Err(format!("a child: pid {child}, status {status:#x}"));
        }
    }
    Ok(())
}

fn memory() -> Result<(), String> {
    const LEN: usize = 1 << 20;
    let (prot, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a mapping of our own, unmapped at the end.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), LEN, prot, flags, -1, 0);
        if at == libc::MAP_FAILED {
            return Err("mmap".into());
        }
        let bytes = std::slice::from_raw_parts_mut(at.cast::<u8>(), LEN);
        if bytes.iter().any(|&b| b != 0) {
            return Err("fresh memory is not zero".into());
        }
        bytes.fill(7);
        if libc::mprotect(at, LEN, libc::PROT_READ) != 0 || libc::munmap(at, LEN) != 0 {
            return Err("mprotect or munmap".into());
        }
    }
    Ok(())
}
