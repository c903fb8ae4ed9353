//! Pseudo-terminals, termios, job control, sessions and process groups.

use crate::helpers::*;
use crate::sys::BAD;
use std::ffi::CString;

cases![
    open_pair,
    locked_until_unlocked,
    default_settings,
    canonical_lines,
    canonical_editing,
    canonical_end_of_file,
    canonical_read_by_parts,
    canonical_overflow,
    raw_min_time,
    output_processing,
    input_translation,
    echo_forms,
    window_size,
    window_size_signal,
    signals_from_keys,
    flow_control,
    flush_queues,
    hangup_on_master_close,
    slave_closed,
    master_poll,
    packet_mode,
    controlling_terminal,
    dev_tty,
    foreground_group,
    background_read,
    background_write,
    orphaned_background_read,
    session_leader_exit,
    lose_terminal,
    setsid_rules,
    setpgid_rules,
    getsid_getpgid,
    orphaned_group_hangup,
    ioctl_errors,
    terminal_name,
    exclusive_mode,
    waiting_output,
];

/// The master, the slave's number and the slave, opened without becoming the terminal.
fn pair() -> (i32, CString, i32) {
    let m = open(c"/dev/ptmx", O_RDWR | O_NOCTTY, 0);
    let mut n = -1i32;
    ok!(SYS_ioctl, m, TIOCGPTN, &mut n);
    ok!(SYS_ioctl, m, TIOCSPTLCK, &0i32);
    let name = CString::new(format!("/dev/pts/{n}")).unwrap();
    let s = open(&name, O_RDWR | O_NOCTTY, 0);
    (m, name, s)
}

/// The kernel's termios.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Termios {
    iflag: u32,
    oflag: u32,
    cflag: u32,
    lflag: u32,
    line: u8,
    cc: [u8; 19],
}

fn get(fd: i32) -> Termios {
    let mut t = Termios { iflag: 0, oflag: 0, cflag: 0, lflag: 0, line: 0, cc: [0; 19] };
    ok!(SYS_ioctl, fd, TCGETS, &mut t);
    t
}

fn change(fd: i32, f: impl FnOnce(&mut Termios)) {
    let mut t = get(fd);
    f(&mut t);
    ok!(SYS_ioctl, fd, TCSETS, &t);
}

fn raw(fd: i32) {
    change(fd, |t| {
        t.iflag = 0;
        t.oflag = 0;
        t.lflag = 0;
    });
}

fn quiet(fd: i32) {
    change(fd, |t| t.lflag &= !ECHO);
}

/// Waits until what the master wrote has come through.
#[track_caller]
fn arrived(s: i32) {
    assert_eq!(poll(s, POLLIN, 5000), POLLIN);
}

fn open_pair() {
    let (m, name, s) = pair();
    raw(s);
    write(m, b"in");
    assert_eq!(read(s, 9), b"in");
    write(s, b"out");
    assert_eq!(read(m, 9), b"out");
    let st = lstat(&name);
    assert_eq!((st.st_mode & S_IFMT, major(st.st_rdev)), (S_IFCHR, 136));
    assert_eq!(fstat(s).st_ino, st.st_ino);
}

fn locked_until_unlocked() {
    let m = open(c"/dev/ptmx", O_RDWR | O_NOCTTY, 0);
    let mut n = -1i32;
    ok!(SYS_ioctl, m, TIOCGPTN, &mut n);
    let name = CString::new(format!("/dev/pts/{n}")).unwrap();
    err!(EIO: SYS_openat, AT_FDCWD, name.as_c_str(), O_RDWR | O_NOCTTY, 0);
    let mut locked = 9i32;
    ok!(SYS_ioctl, m, TIOCGPTLCK, &mut locked);
    assert_eq!(locked, 1);
    ok!(SYS_ioctl, m, TIOCSPTLCK, &0i32);
    close(open(&name, O_RDWR | O_NOCTTY, 0));
    // Or without a name, through the master.
    let s = ok!(SYS_ioctl, m, TIOCGPTPEER, O_RDWR | O_NOCTTY) as i32;
    raw(s);
    write(m, b"x");
    assert_eq!(read(s, 9), b"x");
    close(m);
    err!(ENOENT: SYS_openat, AT_FDCWD, name.as_c_str(), O_RDWR | O_NOCTTY, 0);
}

fn default_settings() {
    let (m, _, s) = pair();
    println!("{:x?}", get(s));
    let mut w = [9u16; 4];
    ok!(SYS_ioctl, s, TIOCGWINSZ, &mut w);
    assert_eq!(w, [0; 4]);
    // Both ends show the slave's settings.
    change(s, |t| t.lflag &= !ECHO);
    assert_eq!(get(m).lflag & ECHO, 0);
    // TCSETSF and TCSETSW take the same structure.
    ok!(SYS_ioctl, s, TCSETSW, &get(s));
    ok!(SYS_ioctl, s, TCSETSF, &get(s));
}

fn canonical_lines() {
    let (m, _, s) = pair();
    quiet(s);
    write(m, b"par");
    assert_eq!(poll(s, POLLIN, 0), 0);
    write(m, b"tial\nnext\n");
    assert_eq!(poll(s, POLLIN, 0), POLLIN);
    assert_eq!(read(s, 99), b"partial\n");
    assert_eq!(read(s, 99), b"next\n");
    let mut n = 0i32;
    write(m, b"abc\n");
    arrived(s);
    ok!(SYS_ioctl, s, FIONREAD, &mut n);
    assert_eq!(n, 4);
}

fn canonical_editing() {
    let (m, _, s) = pair();
    quiet(s);
    write(m, b"abx\x7fc\n");
    assert_eq!(read(s, 99), b"abc\n");
    write(m, b"gone\x15kept\n");
    assert_eq!(read(s, 99), b"kept\n");
    write(m, b"one two  \x17three\n");
    assert_eq!(read(s, 99), b"one three\n");
    // The next character taken literally.
    write(m, b"a\x16\x03b\n");
    assert_eq!(read(s, 99), b"a\x03b\n");
    write(m, b"\x7f\x7fx\n");
    assert_eq!(read(s, 99), b"x\n");
    // With UTF-8 mode one erase takes a whole character.
    change(s, |t| t.iflag |= IUTF8);
    write(m, "aé\x7f\n".as_bytes());
    assert_eq!(read(s, 99), b"a\n");
}

fn canonical_end_of_file() {
    let (m, _, s) = pair();
    quiet(s);
    write(m, b"\x04");
    assert_eq!(read(s, 99), b"");
    write(m, b"no newline\x04");
    assert_eq!(read(s, 99), b"no newline");
    change(s, |t| t.cc[VEOL] = b';');
    write(m, b"a;b\n");
    assert_eq!(read(s, 99), b"a;");
    assert_eq!(read(s, 99), b"b\n");
}

fn canonical_read_by_parts() {
    let (m, _, s) = pair();
    quiet(s);
    write(m, b"0123456789\nrest\n");
    assert_eq!(read(s, 4), b"0123");
    assert_eq!(read(s, 4), b"4567");
    assert_eq!(read(s, 99), b"89\n");
    assert_eq!(read(s, 99), b"rest\n");
    ok!(SYS_fcntl, s, F_SETFL, O_NONBLOCK);
    err!(EAGAIN: SYS_read, s, &mut [0u8; 4], 4);
}

fn canonical_overflow() {
    let (m, _, s) = pair();
    quiet(s);
    ok!(SYS_fcntl, m, F_SETFL, O_NONBLOCK);
    for _ in 0..50 {
        let _ = sys!(SYS_write, m, &[b'x'; 100], 100);
    }
    let _ = sys!(SYS_write, m, b"\n", 1);
    // A line has 4095 bytes at most; what is beyond is lost, the newline is not.
    let line = read(s, 9999);
    assert_eq!(line.len(), 4096);
    assert!(line.ends_with(b"x\n"));
}

fn raw_min_time() {
    let (m, _, s) = pair();
    raw(s);
    change(s, |t| {
        t.cc[VMIN] = 3;
        t.cc[VTIME] = 0;
    });
    write(m, b"ab");
    assert_eq!(poll(s, POLLIN, 0), 0);
    write(m, b"c");
    assert_eq!(read(s, 99), b"abc");
    change(s, |t| {
        t.cc[VMIN] = 0;
        t.cc[VTIME] = 0;
    });
    assert_eq!(read(s, 99), b"");
    change(s, |t| t.cc[VTIME] = 1);
    let before = mono();
    assert_eq!(read(s, 99), b"");
    assert!(mono() - before >= 90_000_000);
    write(m, b"x");
    assert_eq!(read(s, 99), b"x");
    // With both, the time runs between characters.
    change(s, |t| t.cc[VMIN] = 5);
    write(m, b"yz");
    assert_eq!(read(s, 99), b"yz");
}

fn output_processing() {
    let (m, _, s) = pair();
    write(s, b"a\nb\n");
    assert_eq!(read(m, 99), b"a\r\nb\r\n");
    change(s, |t| t.oflag = OPOST);
    write(s, b"a\n");
    assert_eq!(read(m, 99), b"a\n");
    change(s, |t| t.oflag = OPOST | OCRNL);
    write(s, b"a\r");
    assert_eq!(read(m, 99), b"a\n");
    let (m, _, s) = pair();
    change(s, |t| t.oflag = OPOST | ONLCR | TAB3);
    write(s, b"a\tb\n");
    assert_eq!(read(m, 99), b"a       b\r\n");
    change(s, |t| t.oflag = OPOST | OLCUC);
    write(s, b"abC");
    assert_eq!(read(m, 99), b"ABC");
}

fn input_translation() {
    let (m, _, s) = pair();
    quiet(s);
    write(m, b"a\r");
    assert_eq!(read(s, 99), b"a\n", "ICRNL is on by default");
    change(s, |t| t.iflag = INLCR);
    write(m, b"a\n\x04");
    assert_eq!(read(s, 99), b"a\r");
    change(s, |t| t.iflag = IGNCR);
    write(m, b"a\rb\n");
    assert_eq!(read(s, 99), b"ab\n");
    change(s, |t| t.iflag = ISTRIP);
    write(m, b"\xe1\n");
    assert_eq!(read(s, 99), b"a\n");
}

fn echo_forms() {
    let (m, _, s) = pair();
    write(m, b"ab\x03");
    // The signal flushes what was there to echo.
    assert_eq!(read(m, 99), b"^C");
    write(m, b"ab\x7f");
    assert_eq!(read(m, 99), b"ab\x08 \x08");
    write(m, b"\x15");
    println!("{:?}", String::from_utf8_lossy(&read(m, 99)));
    write(m, b"x\n");
    assert_eq!(read(m, 99), b"x\r\n");
    change(s, |t| t.lflag &= !(ECHO | ECHOE | ECHOK | ECHOCTL));
    change(s, |t| t.lflag |= ECHONL);
    write(m, b"z\n");
    assert_eq!(read(m, 99), b"\r\n");
    change(s, |t| t.lflag |= ECHO);
    write(m, b"\x01");
    assert_eq!(read(m, 99), b"\x01");
}

fn window_size() {
    let (m, _, s) = pair();
    ok!(SYS_ioctl, m, TIOCSWINSZ, &[24u16, 80, 640, 480]);
    let mut w = [0u16; 4];
    ok!(SYS_ioctl, s, TIOCGWINSZ, &mut w);
    assert_eq!(w, [24, 80, 640, 480]);
    ok!(SYS_ioctl, s, TIOCSWINSZ, &[1u16, 2, 3, 4]);
    ok!(SYS_ioctl, m, TIOCGWINSZ, &mut w);
    assert_eq!(w, [1, 2, 3, 4]);
}

/// Runs `body` in a child that leads a session with the slave as its terminal.
fn on_terminal(name: &std::ffi::CStr, body: impl FnOnce(i32) -> i32) -> i32 {
    fork(|| {
        ok!(SYS_setsid);
        body(open(name, O_RDWR, 0))
    })
}

/// Waits until the other side writes its one byte.
fn sync_pipe() -> (impl Fn(), impl Fn()) {
    let (r, w) = pipe(0);
    (move || _ = read(r, 1), move || write(w, b"x"))
}

fn window_size_signal() {
    let (m, name, _s) = pair();
    let (ready, set) = sync_pipe();
    let pid = on_terminal(&name, |_| {
        sigmask(SIG_BLOCK, bit(SIGWINCH));
        on(SIGWINCH, 0);
        set();
        i32::from(sys!(SYS_rt_sigtimedwait, &bit(SIGWINCH), 0, &ms(3000), 8) != Ok(SIGWINCH as usize))
    });
    ready();
    ok!(SYS_ioctl, m, TIOCSWINSZ, &[24u16, 80, 0, 0]);
    assert_eq!(wait(pid), 0);
}

fn signals_from_keys() {
    for (key, sig) in [(3u8, SIGINT), (0x1c, SIGQUIT), (0x1a, SIGTSTP)] {
        let (m, name, _s) = pair();
        let (ready, set) = sync_pipe();
        let pid = on_terminal(&name, |_| {
            sigmask(SIG_BLOCK, bit(sig));
            on(sig, 0);
            set();
            i32::from(sys!(SYS_rt_sigtimedwait, &bit(sig), 0, &ms(3000), 8) != Ok(sig as usize))
        });
        ready();
        write(m, &[b'x', key]);
        assert_eq!(wait(pid), 0, "key {key}");
    }
    // Without ISIG it is a character like any other.
    let (m, _, s) = pair();
    change(s, |t| t.lflag &= !(ISIG | ECHO));
    write(m, b"\x03\n");
    assert_eq!(read(s, 9), b"\x03\n");
}

fn flow_control() {
    let (m, _, s) = pair();
    quiet(s);
    ok!(SYS_ioctl, s, TCXONC, TCOOFF);
    ok!(SYS_fcntl, s, F_SETFL, O_NONBLOCK);
    err!(EAGAIN: SYS_write, s, b"x", 1);
    ok!(SYS_ioctl, s, TCXONC, TCOON);
    write(s, b"y");
    assert_eq!(read(m, 9), b"y");
    // The characters do the same.
    write(m, b"\x13");
    poll(s, POLLIN, 0);
    err!(EAGAIN: SYS_write, s, b"x", 1);
    write(m, b"\x11");
    poll(s, POLLIN, 0);
    write(s, b"z");
    assert_eq!(read(m, 9), b"z");
    err!(EINVAL: SYS_ioctl, s, TCXONC, 9);
}

fn flush_queues() {
    let (m, _, s) = pair();
    raw(s);
    write(m, b"lost");
    arrived(s);
    ok!(SYS_ioctl, s, TCFLSH, TCIFLUSH);
    ok!(SYS_fcntl, s, F_SETFL, O_NONBLOCK);
    err!(EAGAIN: SYS_read, s, &mut [0u8; 9], 9);
    err!(EINVAL: SYS_ioctl, s, TCFLSH, 9);
    ok!(SYS_ioctl, s, TCSBRK, 1);
    // TCSETSF flushes the input too.
    write(m, b"lost");
    arrived(s);
    ok!(SYS_ioctl, s, TCSETSF, &get(s));
    err!(EAGAIN: SYS_read, s, &mut [0u8; 9], 9);
}

fn hangup_on_master_close() {
    let (m, name, s) = pair();
    close(m);
    assert_eq!(read(s, 9), b"");
    err!(EIO: SYS_write, s, b"x", 1);
    err!(EIO: SYS_ioctl, s, TCGETS, &mut [0u8; 64]);
    println!("{:#x}", poll(s, POLLIN | POLLOUT, 0));
    // The session's leader gets SIGHUP.
    let (m, name2, _s) = pair();
    let (ready, set) = sync_pipe();
    let pid = on_terminal(&name2, |_| {
        close(m);
        set();
        nap(5000);
        0
    });
    ready();
    close(m);
    assert_eq!(killed_by(wait(pid)), Some(SIGHUP));
    err!(ENOENT: SYS_openat, AT_FDCWD, name.as_c_str(), O_RDWR, 0);
}

fn slave_closed() {
    let (m, name, s) = pair();
    raw(s);
    write(s, b"last");
    close(s);
    assert_eq!(read(m, 9), b"last");
    err!(EIO: SYS_read, m, &mut [0u8; 9], 9);
    assert_eq!(poll(m, POLLIN, 0) & POLLHUP, POLLHUP);
    let s = open(&name, O_RDWR | O_NOCTTY, 0);
    write(s, b"again");
    assert_eq!(read(m, 9), b"again");
    // Before the slave was ever opened there is no error.
    let m = open(c"/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK, 0);
    err!(EAGAIN: SYS_read, m, &mut [0u8; 9], 9);
}

fn master_poll() {
    let (m, _, s) = pair();
    assert_eq!(poll(m, POLLIN | POLLOUT, 0), POLLOUT);
    write(s, b"x");
    assert_eq!(poll(m, POLLIN | POLLOUT, 0), POLLIN | POLLOUT);
    let mut n = 0i32;
    ok!(SYS_ioctl, m, FIONREAD, &mut n);
    assert_eq!(n, 1);
    let pid = fork(|| {
        nap(30);
        write(s, b"y");
        0
    });
    read(m, 9);
    assert_eq!(poll(m, POLLIN, 5000), POLLIN);
    wait(pid);
}

fn packet_mode() {
    let (m, _, s) = pair();
    ok!(SYS_ioctl, m, TIOCPKT, &1i32);
    write(s, b"data");
    assert_eq!(read(m, 9), b"\0data");
    ok!(SYS_ioctl, s, TCFLSH, TCIFLUSH);
    assert_eq!(read(m, 9), [1]);
    ok!(SYS_ioctl, m, TIOCPKT, &0i32);
    write(s, b"data");
    assert_eq!(read(m, 9), b"data");
}

fn controlling_terminal() {
    let (_m, name, s) = pair();
    // The case leads its session and has no terminal: opening without O_NOCTTY takes it.
    err!(ENXIO: SYS_openat, AT_FDCWD, c"/dev/tty", O_RDWR, 0);
    let mut n = 0i32;
    err!(ENOTTY: SYS_ioctl, s, TIOCGSID, &mut n);
    let t = open(&name, O_RDWR, 0);
    ok!(SYS_ioctl, t, TIOCGSID, &mut n);
    assert_eq!(n as usize, ok!(SYS_getsid, 0));
    ok!(SYS_ioctl, t, TIOCGPGRP, &mut n);
    assert_eq!(n as usize, ok!(SYS_getpgid, 0));
    // Taking it again is nothing; another session may not.
    ok!(SYS_ioctl, t, TIOCSCTTY, 0);
    in_child(|| {
        ok!(SYS_setsid);
        err!(EPERM: SYS_ioctl, t, TIOCSCTTY, 0);
        let other = pair();
        ok!(SYS_ioctl, other.2, TIOCSCTTY, 0);
        err!(EPERM: SYS_ioctl, pair().2, TIOCSCTTY, 0);
    });
    // No session leader: no terminal is taken.
    in_child(|| {
        err!(EPERM: SYS_ioctl, pair().2, TIOCSCTTY, 0);
    });
}

fn dev_tty() {
    let (m, name, s) = pair();
    raw(s);
    let pid = on_terminal(&name, |_| {
        let t = open(c"/dev/tty", O_RDWR, 0);
        write(t, b"hello");
        let stat = text(c"/proc/self/stat");
        let nr: u64 = stat.rsplit(')').next().unwrap().split_whitespace().nth(4).unwrap().parse().unwrap();
        i32::from(nr != lstat(&CString::new(std::fs::read_link("/proc/self/fd/0").unwrap().to_str().unwrap()).unwrap()).st_rdev && nr == 0)
    });
    assert_eq!(read(m, 9), b"hello");
    assert_eq!(wait(pid), 0);
}

fn foreground_group() {
    let (_m, name, _s) = pair();
    let pid = on_terminal(&name, |t| {
        let (r, w) = pipe(0);
        let child = fork(|| {
            read(r, 1);
            0
        });
        ok!(SYS_setpgid, child, child);
        ok!(SYS_ioctl, t, TIOCSPGRP, &child);
        let mut n = 0i32;
        ok!(SYS_ioctl, t, TIOCGPGRP, &mut n);
        assert_eq!(n, child);
        sigmask(SIG_BLOCK, bit(SIGTTOU));
        err!(EINVAL: SYS_ioctl, t, TIOCSPGRP, &-1i32);
        write(w, b"x");
        wait(child);
        // A group that is gone, or of another session.
        err!(ESRCH: SYS_ioctl, t, TIOCSPGRP, &child);
        err!(EPERM: SYS_ioctl, t, TIOCSPGRP, &(ok!(SYS_getppid) as i32));
        ok!(SYS_ioctl, t, TIOCSPGRP, &(ok!(SYS_getpgid, 0) as i32));
        0
    });
    assert_eq!(wait(pid), 0);
}

fn background_read() {
    let (m, name, _s) = pair();
    let pid = on_terminal(&name, |t| {
        let child = fork(|| {
            ok!(SYS_setpgid, 0, 0);
            i32::from(read(t, 9) != b"line\n")
        });
        let mut st = 0;
        ok!(SYS_wait4, child, &mut st, WUNTRACED, 0);
        assert!(WIFSTOPPED(st) && WSTOPSIG(st) == SIGTTIN, "{st:#x}");
        ok!(SYS_ioctl, t, TIOCSPGRP, &child);
        ok!(SYS_kill, -child, SIGCONT);
        write(m, b"line\n");
        i32::from(wait(child) != 0)
    });
    assert_eq!(wait(pid), 0);
}

fn background_write() {
    let (m, name, _s) = pair();
    let pid = on_terminal(&name, |t| {
        // Writing is allowed unless TOSTOP is set.
        let child = fork(|| {
            ok!(SYS_setpgid, 0, 0);
            write(t, b"ok");
            0
        });
        assert_eq!(wait(child), 0);
        change(t, |x| x.lflag |= TOSTOP);
        let child = fork(|| {
            ok!(SYS_setpgid, 0, 0);
            write(t, b"late");
            0
        });
        let mut st = 0;
        ok!(SYS_wait4, child, &mut st, WUNTRACED, 0);
        assert!(WIFSTOPPED(st) && WSTOPSIG(st) == SIGTTOU, "{st:#x}");
        ok!(SYS_kill, child, SIGKILL);
        wait(child);
        // With the signal blocked or ignored the write goes through.
        let child = fork(|| {
            ok!(SYS_setpgid, 0, 0);
            sigmask(SIG_BLOCK, bit(SIGTTOU));
            write(t, b"!");
            0
        });
        i32::from(wait(child) != 0)
    });
    assert_eq!(wait(pid), 0);
    let mut all = Vec::new();
    while poll(m, POLLIN, 0) & POLLIN != 0 {
        all.extend(read(m, 99));
    }
    assert_eq!(all, b"ok!");
}

fn orphaned_background_read() {
    let (_m, name, _s) = pair();
    let (r, w) = pipe(0);
    let (done, set) = sync_pipe();
    let pid = on_terminal(&name, |t| {
        let middle = fork(|| {
            let parent = ok!(SYS_getpid);
            fork(|| {
                ok!(SYS_setpgid, 0, 0);
                while ok!(SYS_getppid) == parent {
                    nap(1);
                }
                // Its parent is gone, so nobody could continue it: an error instead.
                let e = sys!(SYS_read, t, &mut [0u8; 4], 4);
                write(w, &[u8::from(e == Err(EIO))]);
                set();
                0
            });
            0
        });
        wait(middle);
        // The end of the session's leader would be the end of the read as well.
        done();
        0
    });
    assert_eq!(read(r, 1), [1]);
    wait(pid);
}

fn session_leader_exit() {
    let (_m, name, _s) = pair();
    let (r, w) = pipe(0);
    let pid = on_terminal(&name, |t| {
        let (ready, set) = sync_pipe();
        let child = fork(|| {
            close(t);
            sigmask(SIG_BLOCK, bit(SIGHUP));
            on(SIGHUP, 0);
            set();
            let got = sys!(SYS_rt_sigtimedwait, &bit(SIGHUP), 0, &ms(3000), 8);
            let gone = sys!(SYS_openat, AT_FDCWD, c"/dev/tty", O_RDWR, 0) == Err(ENXIO);
            write(w, &[u8::from(got == Ok(SIGHUP as usize)), u8::from(gone)]);
            0
        });
        ready();
        let _ = child;
        0
    });
    wait(pid);
    assert_eq!(read(r, 2), [1, 1]);
}

fn lose_terminal() {
    let (_m, name, _s) = pair();
    let pid = on_terminal(&name, |t| {
        action(SIGHUP, SIG_IGN, 0, &[]);
        ok!(SYS_ioctl, t, TIOCNOTTY, 0);
        err!(ENXIO: SYS_openat, AT_FDCWD, c"/dev/tty", O_RDWR, 0);
        err!(ENOTTY: SYS_ioctl, t, TIOCNOTTY, 0);
        0
    });
    assert_eq!(wait(pid), 0);
}

fn setsid_rules() {
    // The case leads its session already.
    err!(EPERM: SYS_setsid);
    in_child(|| {
        let me = ok!(SYS_getpid);
        assert_eq!(ok!(SYS_setsid), me);
        assert_eq!((ok!(SYS_getsid, 0), ok!(SYS_getpgid, 0)), (me, me));
        err!(EPERM: SYS_setsid);
    });
    in_child(|| {
        // A group leader may not either.
        ok!(SYS_setpgid, 0, 0);
        err!(EPERM: SYS_setsid);
    });
}

fn setpgid_rules() {
    err!(EINVAL: SYS_setpgid, 0, -1);
    err!(ESRCH: SYS_setpgid, 0x3fff_ffff, 0);
    // A session leader cannot be moved.
    err!(EPERM: SYS_setpgid, 0, 0);
    let (go, start) = sync_pipe();
    let child = fork(|| {
        go();
        0
    });
    ok!(SYS_setpgid, child, child);
    assert_eq!(ok!(SYS_getpgid, child) as i32, child);
    ok!(SYS_setpgid, child, ok!(SYS_getpgid, 0));
    // A group must exist in the session.
    err!(EPERM: SYS_setpgid, child, 0x3fff_fff0);
    in_child(|| {
        // Not its own child.
        err!(ESRCH: SYS_setpgid, child, 0);
    });
    start();
    wait(child);
    // After exec a child can no longer be moved; before, another session's neither.
    let (ready, set) = sync_pipe();
    let (go, start) = sync_pipe();
    let child = fork(|| {
        ok!(SYS_setsid);
        set();
        go();
        0
    });
    ready();
    err!(EPERM: SYS_setpgid, child, 0);
    start();
    wait(child);
}

fn getsid_getpgid() {
    assert_eq!(ok!(SYS_getpgid, 0), ok!(SYS_getpgrp));
    assert_eq!(ok!(SYS_getsid, ok!(SYS_getpid)), ok!(SYS_getsid, 0));
    err!(ESRCH: SYS_getsid, 0x3fff_ffff);
    err!(ESRCH: SYS_getpgid, 0x3fff_ffff);
    err!(ESRCH: SYS_getpgid, -1);
}

fn orphaned_group_hangup() {
    let (r, w) = pipe(0);
    // A stopped group that becomes orphaned gets SIGHUP and SIGCONT.
    let middle = fork(|| {
        let child = fork(|| {
            ok!(SYS_setpgid, 0, 0);
            on(SIGHUP, 0);
            on(SIGCONT, 0);
            ok!(SYS_kill, ok!(SYS_getpid), SIGSTOP);
            let both = count(SIGHUP) == 1 && count(SIGCONT) == 1;
            write(w, &[u8::from(both)]);
            0
        });
        ok!(SYS_wait4, child, 0, WUNTRACED, 0);
        0
    });
    wait(middle);
    assert_eq!(read(r, 1), [1]);
}

fn ioctl_errors() {
    let (m, _, s) = pair();
    err!(ENOTTY: SYS_ioctl, s, 0x9999, 0);
    err!(EFAULT: SYS_ioctl, s, TCGETS, BAD);
    err!(EFAULT: SYS_ioctl, s, TIOCSWINSZ, BAD);
    err!(ENOTTY: SYS_ioctl, temp(c"f", b""), TCGETS, &mut [0u8; 64]);
    err!(ENOTTY: SYS_ioctl, open(c"/dev/null", O_RDWR, 0), TCGETS, &mut [0u8; 64]);
    err!(EBADF: SYS_ioctl, 999, TCGETS, BAD);
    err!(ESPIPE: SYS_lseek, m, 0, SEEK_SET);
    err!(ENOTTY: SYS_ioctl, s, TIOCGPTN, &mut 0i32);
}

fn terminal_name() {
    let (_m, name, s) = pair();
    let link = CString::new(format!("/proc/self/fd/{s}")).unwrap();
    let mut b = [0u8; 64];
    let n = ok!(SYS_readlink, link.as_c_str(), &mut b, 64);
    assert_eq!(&b[..n], name.as_bytes());
}

fn exclusive_mode() {
    let (_m, name, s) = pair();
    ok!(SYS_ioctl, s, TIOCEXCL, 0);
    ok!(SYS_ioctl, s, TIOCNXCL, 0);
    close(open(&name, O_RDWR | O_NOCTTY, 0));
    ok!(SYS_ioctl, s, TIOCEXCL, 0);
    need_unprivileged();
    match sys!(SYS_openat, AT_FDCWD, name.as_c_str(), O_RDWR | O_NOCTTY, 0) {
        Err(EBUSY | EACCES) => {}
        r => panic!("{r:?}"),
    }
}

fn waiting_output() {
    let (m, _, s) = pair();
    raw(s);
    let mut n = 9i32;
    ok!(SYS_ioctl, s, TIOCOUTQ, &mut n);
    assert_eq!(n, 0);
    // A blocked writer goes on when the master reads.
    let pid = fork(|| {
        write(s, &[b'x'; 100_000]);
        0
    });
    let mut got = 0;
    while got < 100_000 {
        got += read(m, 9999).len();
    }
    assert_eq!(wait(pid), 0);
}
