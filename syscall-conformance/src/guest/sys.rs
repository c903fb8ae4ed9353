//! Raw system calls with their results as values, and the macros cases assert with.

use std::ffi::CStr;

/// Something that fits one argument register of a system call.
pub(crate) trait Arg {
    /// The register's value.
    fn arg(self) -> usize;
}

macro_rules! int_arg {
    ($($t:ty),*) => { $(impl Arg for $t { fn arg(self) -> usize { self as usize } })* };
}
int_arg!(i32, u32, i64, u64, usize, isize, u16);

impl<T> Arg for *const T {
    fn arg(self) -> usize {
        self as usize
    }
}
impl<T> Arg for *mut T {
    fn arg(self) -> usize {
        self as usize
    }
}
impl<T> Arg for &T {
    fn arg(self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}
impl<T> Arg for &mut T {
    fn arg(self) -> usize {
        std::ptr::from_mut(self) as usize
    }
}
impl<T> Arg for &[T] {
    fn arg(self) -> usize {
        self.as_ptr() as usize
    }
}
impl<T> Arg for &mut [T] {
    fn arg(self) -> usize {
        self.as_mut_ptr() as usize
    }
}
impl Arg for &CStr {
    fn arg(self) -> usize {
        self.as_ptr() as usize
    }
}

/// An address no mapping of the guest is at.
pub(crate) const BAD: usize = 0x10;
/// A non-canonical address, beyond what any process can map.
pub(crate) const KERNEL: usize = 0xffff_8000_0000_0000;

/// The system call itself: `Ok` is its result, `Err` the errno.
pub(crate) fn call(nr: i64, args: &[usize]) -> Result<usize, i32> {
    let mut a = [0usize; 6];
    a[..args.len()].copy_from_slice(args);
    // SAFETY: a test program; each case vouches for the pointers it passes, and bad ones on
    // purpose are for the kernel to refuse.
    let r = unsafe { libc::syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if r == -1 { Err(errno()) } else { Ok(r as usize) }
}

/// The calling thread's errno.
pub(crate) fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// `sys!(SYS_name, args...)`: the call's `Result`.
#[macro_export]
macro_rules! sys {
    // One expression, so that temporaries among the arguments live through the call.
    ($nr:ident $(, $arg:expr)* $(,)?) => {
        $crate::sys::call(libc::$nr, &[$($crate::sys::Arg::arg($arg),)*])
    };
}

/// `ok!(SYS_name, args...)`: the call must succeed; its value.
#[macro_export]
macro_rules! ok {
    ($nr:ident $(, $arg:expr)* $(,)?) => {
        match sys!($nr $(, $arg)*) {
            Ok(v) => v,
            Err(e) => panic!("{} failed with {}", stringify!($nr), $crate::sys::name(e)),
        }
    };
}

/// `err!(ERRNO: SYS_name, args...)`: the call must fail with exactly that errno.
#[macro_export]
macro_rules! err {
    ($errno:ident: $nr:ident $(, $arg:expr)* $(,)?) => {
        match sys!($nr $(, $arg)*) {
            Err(e) if e == libc::$errno => {}
            Err(e) => panic!(
                "{} failed with {}, not {}",
                stringify!($nr),
                $crate::sys::name(e),
                stringify!($errno)
            ),
            Ok(v) => panic!("{} gave {v:#x}, not {}", stringify!($nr), stringify!($errno)),
        }
    };
}

/// Ends the case as not applicable here, with the reason.
#[macro_export]
macro_rules! skip {
    ($($arg:tt)*) => {{
        println!($($arg)*);
        std::process::exit($crate::SKIPPED)
    }};
}

/// A failed assertion ends the process it is in, be it a thread or a forked child of the case.
pub(crate) fn fail_by_exit() {
    std::panic::set_hook(Box::new(|info| {
        use std::io::Write;
        let at = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        let what = info
            .payload()
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| info.payload().downcast_ref::<&str>().copied())
            .unwrap_or("?");
        let _ = writeln!(std::io::stderr(), "{at}: {what}");
        let _ = std::io::stdout().flush();
        // SAFETY: ends the process; nothing of it is used afterwards.
        unsafe { libc::_exit(101) }
    }));
}

/// An errno's name, for messages.
pub(crate) fn name(e: i32) -> String {
    macro_rules! names {
        ($($n:ident)*) => { match e { $(libc::$n => stringify!($n).to_string(),)* _ => format!("errno {e}") } };
    }
    names!(EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT
        ENOTBLK EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG
        ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY
        ELOOP ENODATA EOVERFLOW EOPNOTSUPP ETIMEDOUT ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE
        ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENOBUFS
        EISCONN ENOTCONN ECONNREFUSED ECONNRESET ECONNABORTED EALREADY EINPROGRESS ECANCELED)
}
