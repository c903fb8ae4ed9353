//! Processes, threads and signals.

use crate::Row;
use crate::timing::{check, each};
use std::ptr::{null, null_mut};

/// The rows of this group.
pub(crate) const ROWS: &[Row] = &[
    ("fork+exit+wait", fork_exit),
    ("fork+exec+wait", fork_exec),
    ("vfork+exec+wait", vfork_exec),
    ("thread create+join", thread),
    ("signal to self", signal),
];

const ARGS: [*const libc::c_char; 3] = [c"bench-guest".as_ptr(), c"exit".as_ptr(), null()];

fn reap(pid: i32) {
    let mut status = 0;
    // SAFETY: a child of ours and a valid pointer.
    unsafe { check(libc::waitpid(pid, &mut status, 0)) };
    assert_eq!(status, 0, "the child failed");
}

fn fork_exit() -> Result<f64, String> {
    // SAFETY: the child leaves at once.
    Ok(each(|| unsafe {
        let pid = check(libc::fork());
        if pid == 0 {
            libc::_exit(0);
        }
        reap(pid);
    }))
}

fn fork_exec() -> Result<f64, String> {
    // SAFETY: the child only replaces itself.
    Ok(each(|| unsafe {
        let pid = check(libc::fork());
        if pid == 0 {
            libc::execve(c"/proc/self/exe".as_ptr(), ARGS.as_ptr(), ARGS[2..].as_ptr().cast());
            libc::_exit(1);
        }
        reap(pid);
    }))
}

fn vfork_exec() -> Result<f64, String> {
    // posix_spawn is how programs use vfork.
    // SAFETY: null attributes are allowed; the lists end with a null pointer.
    Ok(each(|| unsafe {
        let mut pid = 0;
        let r = libc::posix_spawn(
            &mut pid,
            c"/proc/self/exe".as_ptr(),
            null(),
            null(),
            ARGS.as_ptr().cast(),
            ARGS[2..].as_ptr().cast(),
        );
        assert_eq!(r, 0, "posix_spawn");
        reap(pid);
    }))
}

fn thread() -> Result<f64, String> {
    extern "C" fn body(_: *mut libc::c_void) -> *mut libc::c_void {
        null_mut()
    }
    // SAFETY: the thread touches nothing.
    Ok(each(|| unsafe {
        let mut t = 0;
        assert_eq!(libc::pthread_create(&mut t, null(), body, null_mut()), 0, "pthread_create");
        assert_eq!(libc::pthread_join(t, null_mut()), 0);
    }))
}

fn signal() -> Result<f64, String> {
    extern "C" fn handler(_: i32) {}
    // SAFETY: a handler that does nothing.
    unsafe {
        libc::signal(libc::SIGUSR1, handler as *const () as usize);
        let pid = libc::getpid();
        let ns = each(|| {
            check(libc::kill(pid, libc::SIGUSR1));
        });
        libc::signal(libc::SIGUSR1, libc::SIG_DFL);
        Ok(ns)
    }
}
