//! Files: those of the host (this program's own binary) and new ones in the working folder.

use crate::Row;
use crate::timing::{check, each, few};
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;

/// The rows of this group.
pub(crate) const ROWS: &[Row] = &[
    ("pread 4 KiB, cached", pread),
    ("stat, warm", stat_warm),
    ("stat, missing", stat_missing),
    ("stat, missing in /usr", stat_missing_usr),
    ("open+close", open_close),
    ("open+fstat+read+close", open_read_close),
    ("create+write+unlink", create_unlink),
    ("getdents of 1000", getdents),
];

/// A file that came from the host: this program.
fn own() -> Result<CString, String> {
    let path = std::fs::read_link("/proc/self/exe").map_err(|e| format!("/proc/self/exe: {e}"))?;
    CString::new(path.as_os_str().as_bytes()).map_err(|e| e.to_string())
}

fn pread() -> Result<f64, String> {
    let path = own()?;
    let mut b = [0u8; 4096];
    // SAFETY: valid pointers, a descriptor of our own; so below.
    unsafe {
        let fd = check(libc::open(path.as_ptr(), libc::O_RDONLY));
        let ns = each(|| {
            check(libc::pread(fd, b.as_mut_ptr().cast(), 4096, 8192));
        });
        libc::close(fd);
        Ok(ns)
    }
}

fn stat_warm() -> Result<f64, String> {
    let path = own()?;
    // SAFETY: all-zero is a valid stat; valid pointers.
    unsafe {
        let mut st: libc::stat = std::mem::zeroed();
        Ok(each(|| {
            check(libc::stat(path.as_ptr(), &mut st));
        }))
    }
}

fn stat_missing() -> Result<f64, String> {
    missing(&CString::new([own()?.as_bytes(), b"-missing"].concat()).map_err(|e| e.to_string())?)
}

/// What a search through library paths does most.
fn stat_missing_usr() -> Result<f64, String> {
    missing(c"/usr/lib/bench-guest-missing")
}

fn missing(path: &CStr) -> Result<f64, String> {
    // SAFETY: as above.
    unsafe {
        let mut st: libc::stat = std::mem::zeroed();
        Ok(each(|| assert_eq!(libc::stat(path.as_ptr(), &mut st), -1)))
    }
}

fn open_close() -> Result<f64, String> {
    let path = own()?;
    // SAFETY: as above.
    Ok(each(|| unsafe {
        let fd = check(libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC));
        libc::close(fd);
    }))
}

fn open_read_close() -> Result<f64, String> {
    let path = own()?;
    let mut b = [0u8; 4096];
    // SAFETY: as above.
    unsafe {
        let mut st: libc::stat = std::mem::zeroed();
        Ok(each(|| {
            let fd = check(libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC));
            check(libc::fstat(fd, &mut st));
            check(libc::read(fd, b.as_mut_ptr().cast(), 4096));
            libc::close(fd);
        }))
    }
}

fn create_unlink() -> Result<f64, String> {
    let b = [b'x'; 100];
    // SAFETY: as above.
    Ok(each(|| unsafe {
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
        let fd = check(libc::open(c"created".as_ptr(), flags, 0o644));
        check(libc::write(fd, b.as_ptr().cast(), 100));
        libc::close(fd);
        check(libc::unlink(c"created".as_ptr()));
    }))
}

fn getdents() -> Result<f64, String> {
    for i in 0..1000 {
        std::fs::write(format!("entry-{i}"), b"").map_err(|e| e.to_string())?;
    }
    let mut b = vec![0u64; 4096];
    few(50, || {
        // SAFETY: the buffer has the length that is passed.
        unsafe {
            let fd = check(libc::open(c".".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY));
            while check(libc::syscall(libc::SYS_getdents64, fd, b.as_mut_ptr(), b.len() * 8)) > 0 {}
            libc::close(fd);
        }
        Ok(())
    })
}
