//! TEST ONLY, and in no other build: what somebody can do who has taken over the Sentry or the gofer.
//!
//! With the cargo feature `compromised`, which no release build accepts, `RSENTRY_COMPROMISED=NAME:FD`
//! makes the process NAME (`sentry`, `gofer`) obey whoever holds the other end of the inherited
//! stream socket FD: as soon as the process is sealed, a thread of its own makes the host calls that
//! it is told to make, and reads and writes the process's memory. `tests/tests/compromised.rs` is the
//! other end. Without the feature, [`Hook`] is nothing.

#[cfg(all(feature = "compromised", not(debug_assertions)))]
compile_error!("the feature `compromised` is a test's back door: not for release builds");

#[cfg(not(feature = "compromised"))]
mod enabled {
    use std::os::fd::BorrowedFd;

    /// Nothing.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Hook;

    impl Hook {
        /// Nothing.
        pub(in super::super) fn add(_process: &str, _keep: &mut Vec<BorrowedFd<'_>>) -> Hook {
            Hook
        }

        /// Nothing.
        pub(in super::super) fn start(self) {}
    }
}

#[cfg(feature = "compromised")]
mod enabled {
    use std::io;
    use std::os::fd::{BorrowedFd, RawFd};

    /// Bytes of the area that the other end may use as it likes, for the buffers of its calls.
    const SCRATCH: usize = 1 << 20;
    /// What a request begins with.
    const CALL: u64 = 0;
    const CALL_32: u64 = 1;
    const PEEK: u64 = 2;
    const POKE: u64 = 3;

    /// The descriptor that a process gets its orders from.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Hook(Option<RawFd>);

    impl Hook {
        /// Adds the socket to the descriptors of `process`, if that is to be taken over.
        pub(in super::super) fn add(process: &str, keep: &mut Vec<BorrowedFd<'_>>) -> Hook {
            let wanted = std::env::var("RSENTRY_COMPROMISED").unwrap_or_default();
            let fd = wanted
                .split_once(':')
                .filter(|(name, _)| *name == process)
                .and_then(|(_, fd)| fd.parse::<RawFd>().ok());
            let Some(fd) = fd else { return Hook(None) };
            // SAFETY: the test that set the variable leaves the descriptor open.
            keep.push(unsafe { BorrowedFd::borrow_raw(fd) });
            Hook(RawFd::try_from(keep.len() - 1).ok())
        }

        /// Obeys from now on, on a thread of its own, which has the filter of the calling one.
        pub(in super::super) fn start(self) {
            let Some(fd) = self.0 else { return };
            let builder = std::thread::Builder::new().name("compromised".into());
            builder.spawn(move || obey(fd)).expect("a thread for the attacker");
        }
    }

    fn obey(fd: RawFd) {
        let scratch = vec![0u8; SCRATCH].leak();
        send(fd, &(scratch.as_mut_ptr() as u64).to_le_bytes());
        loop {
            let mut request = [0; 8];
            for word in &mut request {
                *word = receive_word(fd);
            }
            let [what, a, b, c, d, e, f, g] = request;
            match what {
                CALL => {
                    // SAFETY: none. This is what a taken-over process does.
                    let result = unsafe { libc::syscall(a as i64, b, c, d, e, f, g) };
                    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
                    let result = if result == -1 { -i64::from(errno) } else { result };
                    send(fd, &result.to_le_bytes());
                }
                CALL_32 => {
                    // SAFETY: the bytes are a function that takes a number, keeps the registers that
                    // it must, and returns.
                    let call: extern "C" fn(u64) -> i64 =
                        unsafe { std::mem::transmute(INT_80.as_ptr()) };
                    send(fd, &call(a).to_le_bytes());
                }
                // SAFETY: none, as above: the other end says what it wants to see.
                PEEK => send(fd, unsafe {
                    std::slice::from_raw_parts(a as usize as *const u8, b as usize)
                }),
                POKE => {
                    for at in a..a + b {
                        let mut byte = [0];
                        receive(fd, &mut byte);
                        // SAFETY: none, as above.
                        unsafe { (at as usize as *mut u8).write(byte[0]) };
                    }
                    send(fd, &0u64.to_le_bytes());
                }
                _ => std::process::abort(),
            }
        }
    }

    /// `push %rbx; mov %edi,%eax; xor %ebx,%ebx; int $0x80; pop %rbx; ret`: the 32-bit way into the
    /// kernel. As bytes, because assembly belongs to `platform`, which has no such feature.
    #[unsafe(link_section = ".text.compromised")]
    static INT_80: [u8; 9] = [0x53, 0x89, 0xf8, 0x31, 0xdb, 0xcd, 0x80, 0x5b, 0xc3];

    fn receive_word(fd: RawFd) -> u64 {
        let mut bytes = [0; 8];
        receive(fd, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// With recvmsg and sendmsg, because those are on both processes' lists.
    fn receive(fd: RawFd, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let mut part =
                libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            // SAFETY: an all-zero header is a valid value; `part` is valid for writes.
            let got = unsafe {
                let mut header: libc::msghdr = std::mem::zeroed();
                header.msg_iov = &raw mut part;
                header.msg_iovlen = 1;
                libc::recvmsg(fd, &raw mut header, 0)
            };
            match got {
                1.. => bytes = &mut bytes[got as usize..],
                -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                // The test is over.
                _ => park(),
            }
        }
    }

    fn send(fd: RawFd, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut part =
                libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            // SAFETY: an all-zero header is a valid value; `part` is valid for reads.
            let sent = unsafe {
                let mut header: libc::msghdr = std::mem::zeroed();
                header.msg_iov = &raw mut part;
                header.msg_iovlen = 1;
                libc::sendmsg(fd, &raw const header, libc::MSG_NOSIGNAL)
            };
            match sent {
                1.. => bytes = &bytes[sent as usize..],
                -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                _ => park(),
            }
        }
    }

    fn park() -> ! {
        loop {
            std::thread::park();
        }
    }
}

pub(super) use enabled::Hook;
