//! Attacks that the host's side of a test judges: `attack-guest guest WHAT`.

use std::io::Write;
use std::process::ExitCode;

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Does one of them; what it says is for the test.
pub fn run(what: &str) -> ExitCode {
    match what {
        "flood" => flood(),
        "terminal" => terminal(),
        "directory" => directory(),
        "take_descriptors" => take_descriptors(),
        "fill" => fill(),
        _ => ExitCode::from(2),
    }
}

/// Writes to standard output for as long as it is let.
fn flood() -> ExitCode {
    let block = vec![b'x'; 1 << 16];
    loop {
        if std::io::stdout().write_all(&block).is_err() {
            return ExitCode::from(7);
        }
    }
}

/// Types a command into the terminal that it has, by every means.
fn terminal() -> ExitCode {
    let mut worked = 0;
    for fd in 0..3 {
        for byte in b"touch pwned\n" {
            // SAFETY: TIOCSTI reads a byte.
            worked += i32::from(unsafe { libc::ioctl(fd, libc::TIOCSTI, byte) } == 0);
        }
        // TIOCLINUX's paste, in two forms, and the console's redirection.
        for code in [3u8, 2] {
            // SAFETY: reads a byte or more, of a buffer that has them.
            let got = unsafe { libc::ioctl(fd, 0x541c, [code; 16].as_ptr()) };
            worked += i32::from(got == 0);
        }
        // SAFETY: no argument.
        worked += i32::from(unsafe { libc::ioctl(fd, libc::TIOCCONS) } == 0);
    }
    println!("typed {worked}");
    ExitCode::SUCCESS
}

/// Uses standard input as the directory that the caller has passed by mistake.
fn directory() -> ExitCode {
    // SAFETY: plain calls with strings that end.
    unsafe {
        for path in [c"etc/passwd", c"host-secret", c"../host-secret", c"."] {
            if libc::openat(0, path.as_ptr(), libc::O_RDONLY) >= 0 {
                println!("opened {path:?}");
            }
        }
        if libc::fchdir(0) == 0 {
            println!("changed to it");
        }
        for path in [c"/proc/self/fd/0/host-secret", c"/dev/stdin/host-secret"] {
            if libc::open(path.as_ptr(), libc::O_RDONLY) >= 0 {
                println!("opened {path:?}");
            }
        }
    }
    println!("tried");
    ExitCode::SUCCESS
}

/// Receives on standard input, a socket of the host, what comes with descriptors; and sends some.
fn take_descriptors() -> ExitCode {
    let mut byte = [0u8; 16];
    let mut control = [0u64; 64];
    // SAFETY: the message's parts are valid.
    unsafe {
        let mut piece = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut piece, 1);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let got = libc::recvmsg(0, &mut message, 0);
        let error = errno();
        if got >= 0 && message.msg_controllen > 0 {
            println!("got descriptors");
        }
        let mut control = [0u64; 8];
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut piece, 1);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        *libc::CMSG_DATA(header).cast::<i32>() = 1;
        let sent = libc::sendmsg(0, &message, libc::MSG_NOSIGNAL);
        println!("received {got} ({error}), sent {sent} ({})", errno());
        for fd in 3..64 {
            if libc::fcntl(fd, libc::F_GETFD) >= 0 {
                println!("descriptor {fd} is open");
            }
        }
    }
    ExitCode::SUCCESS
}

/// Fills the writable directory it is in: the error, and how much there was.
fn fill() -> ExitCode {
    let block = vec![7u8; 1 << 16];
    let Ok(mut file) = std::fs::File::create("fill") else { return ExitCode::FAILURE };
    let mut wrote = 0;
    while wrote <= 1 << 30 {
        match file.write(&block) {
            Ok(got) if got > 0 => wrote += got,
            other => {
                println!("{wrote} {:?}", other.err().and_then(|e| e.raw_os_error()));
                // It is full, and can be read, emptied and used again.
                drop(file);
                let gone = std::fs::remove_file("fill").is_ok();
                let again = gone && std::fs::write("again", &block).is_ok();
                return if again { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            }
        }
    }
    println!("no end");
    ExitCode::FAILURE
}
