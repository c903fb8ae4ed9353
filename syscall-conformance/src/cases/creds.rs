//! User and group ids, capabilities, prctl, securebits, no_new_privs.

use crate::helpers::*;
use crate::sys::BAD;

cases![
    ids_agree,
    setuid_as_root,
    setuid_unprivileged,
    setresuid_rules,
    setreuid_saves,
    setfsuid_rules,
    groups_rules,
    capget_versions,
    capget_errors,
    capset_rules,
    drop_on_setuid,
    keep_caps,
    bounding_set,
    ambient_set,
    no_new_privs,
    setuid_program_ignored_rights,
    exec_clears_capabilities,
    prctl_name,
    prctl_dumpable,
    prctl_errors,
    prctl_timer_slack,
    securebits,
    threads_have_own_ids,
    children_inherit,
    status_shows,
];

fn as_other() {
    need_cap(CAP_SETUID);
    need_cap(CAP_SETGID);
}

fn uids() -> [u32; 3] {
    let mut u = [0u32; 3];
    let [a, b, c] = &mut u;
    ok!(SYS_getresuid, a, b, c);
    u
}

fn ids_agree() {
    let u = uids();
    assert_eq!((ok!(SYS_getuid), ok!(SYS_geteuid)), (u[0] as usize, u[1] as usize));
    let mut g = [0u32; 3];
    let [a, b, c] = &mut g;
    ok!(SYS_getresgid, a, b, c);
    assert_eq!((ok!(SYS_getgid), ok!(SYS_getegid)), (g[0] as usize, g[1] as usize));
    err!(EFAULT: SYS_getresuid, BAD, BAD, BAD);
}

fn setuid_as_root() {
    as_other();
    ok!(SYS_setuid, 1000);
    assert_eq!(uids(), [1000; 3]);
    err!(EPERM: SYS_setuid, 0);
    err!(EPERM: SYS_setresuid, -1, 0, -1);
    assert_eq!(caps(), 0);
}

fn setuid_unprivileged() {
    as_other();
    ok!(SYS_setresuid, 1, 2, 3);
    ok!(SYS_setuid, 3);
    assert_eq!(uids(), [1, 3, 3]);
    ok!(SYS_setuid, 1);
    assert_eq!(uids(), [1, 1, 3]);
    err!(EPERM: SYS_setuid, 2);
    err!(EINVAL: SYS_setuid, -1);
}

fn setresuid_rules() {
    as_other();
    ok!(SYS_setresuid, 1, 2, 3);
    ok!(SYS_setresuid, 3, 1, 2);
    assert_eq!(uids(), [3, 1, 2]);
    ok!(SYS_setresuid, -1, 3, -1);
    assert_eq!(uids(), [3, 3, 2]);
    err!(EPERM: SYS_setresuid, 3, 3, 4);
    assert_eq!(uids(), [3, 3, 2]);
    ok!(SYS_setresuid, -1, -1, -1);
}

fn setreuid_saves() {
    as_other();
    ok!(SYS_setreuid, 5, 6);
    // The saved id follows the effective one when the real one is set.
    assert_eq!(uids(), [5, 6, 6]);
    ok!(SYS_setreuid, 6, 5);
    assert_eq!(uids(), [6, 5, 5]);
    ok!(SYS_setreuid, -1, 6);
    assert_eq!(uids(), [6, 6, 5]);
    err!(EPERM: SYS_setreuid, 5, -1);
    ok!(SYS_setreuid, -1, 5);
}

fn setfsuid_rules() {
    as_other();
    assert_eq!(ok!(SYS_setfsuid, 77), 0);
    assert_eq!(ok!(SYS_setfsuid, -1), 77);
    assert_eq!(status_field("Uid"), "0\t0\t0\t77");
    ok!(SYS_setresuid, 1, 2, 3);
    // Changing the effective id takes the file system id along.
    assert_eq!(ok!(SYS_setfsuid, 99), 2);
    assert_eq!(ok!(SYS_setfsuid, 3), 2);
    assert_eq!(ok!(SYS_setfsuid, -1), 3);
}

fn groups_rules() {
    let mut g = [0u32; 64];
    ok!(SYS_getgroups, 0, 0);
    err!(EINVAL: SYS_getgroups, -1, &mut g);
    as_other();
    ok!(SYS_setgroups, 3, &[7u32, 5, 6]);
    assert_eq!(ok!(SYS_getgroups, 64, &mut g), 3);
    println!("{:?}", &g[..3]);
    err!(EINVAL: SYS_getgroups, 2, &mut g);
    err!(EINVAL: SYS_setgroups, 65537, &g);
    err!(EFAULT: SYS_setgroups, 3, BAD);
    ok!(SYS_setresuid, 1, 1, 1);
    err!(EPERM: SYS_setgroups, 0, 0);
    err!(EPERM: SYS_setgid, 7);
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

const V3: u32 = 0x2008_0522;

fn capget() -> [u32; 6] {
    let mut d = [0u32; 6];
    ok!(SYS_capget, &Header { version: V3, pid: 0 }, &mut d);
    d
}

fn capget_versions() {
    let d = capget();
    let eff = u64::from(d[0]) | u64::from(d[3]) << 32;
    assert_eq!(Ok(eff), u64::from_str_radix(&status_field("CapEff"), 16));
    let mut h = Header { version: 1, pid: 0 };
    err!(EINVAL: SYS_capget, &mut h, &mut [0u32; 6]);
    assert_eq!(h.version, V3, "the kernel says what it speaks");
    // Without a place for the answer it is only about the version.
    let mut h = Header { version: 1, pid: 0 };
    ok!(SYS_capget, &mut h, 0);
    assert_eq!(h.version, V3);
    ok!(SYS_capget, &Header { version: 0x1998_0330, pid: 0 }, &mut [0u32; 3]);
}

fn capget_errors() {
    err!(EFAULT: SYS_capget, BAD, 0);
    err!(EINVAL: SYS_capget, &Header { version: V3, pid: -1 }, &mut [0u32; 6]);
    err!(ESRCH: SYS_capget, &Header { version: V3, pid: 0x3fff_ffff }, &mut [0u32; 6]);
    err!(EFAULT: SYS_capget, &Header { version: V3, pid: 0 }, BAD);
    err!(EPERM: SYS_capset, &Header { version: V3, pid: 1 }, &[0u32; 6]);
}

fn capset_rules() {
    need_cap(CAP_SETUID);
    let mut d = capget();
    let h = Header { version: V3, pid: 0 };
    d[0] &= !(1 << CAP_CHOWN);
    ok!(SYS_capset, &h, &d);
    assert_eq!(capget()[0] & 1, 0);
    file(c"f", b"");
    err!(EPERM: SYS_chown, c"f", 5, 5);
    // From permitted it comes back, dropped from there it does not.
    d[0] |= 1;
    ok!(SYS_capset, &h, &d);
    d[0] &= !1;
    d[1] &= !1;
    ok!(SYS_capset, &h, &d);
    d[0] |= 1;
    err!(EPERM: SYS_capset, &h, &d);
    d[1] |= 1;
    err!(EPERM: SYS_capset, &h, &d);
}

fn drop_on_setuid() {
    as_other();
    let all = capget();
    ok!(SYS_setresuid, -1, 1000, -1);
    let d = capget();
    assert_eq!((d[0], d[1]), (0, all[1]), "effective goes, permitted stays while an id is 0");
    ok!(SYS_setresuid, -1, 0, -1);
    assert_eq!(capget()[0], all[0]);
    ok!(SYS_setresuid, 1000, 1000, 1000);
    let d = capget();
    assert_eq!((d[0], d[1]), (0, 0));
}

fn keep_caps() {
    as_other();
    let all = capget();
    ok!(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
    assert_eq!(ok!(SYS_prctl, PR_GET_KEEPCAPS, 0, 0, 0, 0), 1);
    ok!(SYS_setresuid, 1000, 1000, 1000);
    let d = capget();
    assert_eq!((d[0], d[1]), (0, all[1]));
    err!(EINVAL: SYS_prctl, PR_SET_KEEPCAPS, 2, 0, 0, 0);
}

fn bounding_set() {
    assert!(ok!(SYS_prctl, PR_CAPBSET_READ, CAP_CHOWN, 0, 0, 0) <= 1);
    err!(EINVAL: SYS_prctl, PR_CAPBSET_READ, 64, 0, 0, 0);
    need_cap(8);
    ok!(SYS_prctl, PR_CAPBSET_DROP, CAP_CHOWN, 0, 0, 0);
    assert_eq!(ok!(SYS_prctl, PR_CAPBSET_READ, CAP_CHOWN, 0, 0, 0), 0);
    err!(EINVAL: SYS_prctl, PR_CAPBSET_DROP, 64, 0, 0, 0);
    let bounding = u64::from_str_radix(&status_field("CapBnd"), 16).unwrap();
    assert_eq!(bounding & 1, 0);
}

fn ambient_set() {
    let is = |cap: u32| ok!(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0);
    assert_eq!(is(CAP_CHOWN), 0);
    err!(EINVAL: SYS_prctl, PR_CAP_AMBIENT, 9, 0, 0, 0);
    err!(EINVAL: SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 64, 0, 0);
    // It must be permitted and inheritable.
    err!(EPERM: SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0);
    need_cap(CAP_CHOWN);
    let mut d = capget();
    d[2] |= 1;
    ok!(SYS_capset, &Header { version: V3, pid: 0 }, &d);
    ok!(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0);
    assert_eq!(is(CAP_CHOWN), 1);
    ok!(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    assert_eq!(is(CAP_CHOWN), 0);
}

fn no_new_privs() {
    assert_eq!(ok!(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0).min(1), status_field("NoNewPrivs").parse().unwrap());
    err!(EINVAL: SYS_prctl, PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0);
    err!(EINVAL: SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0);
    ok!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    assert_eq!(ok!(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
    in_child(|| assert_eq!(ok!(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1));
    err!(EINVAL: SYS_prctl, PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0);
}

fn setuid_program_ignored_rights() {
    as_other();
    // A set-user-id program run by another user gets its owner's effective id.
    let guest = slurp(c"/proc/self/exe");
    file(c"g", &guest);
    ok!(SYS_chown, c"g", 1234, 5678);
    ok!(SYS_chmod, c"g", 0o6755);
    ok!(SYS_chmod, c".", 0o755);
    let null: *const c_char = std::ptr::null();
    let args = [c"g".as_ptr(), c"ids".as_ptr(), null];
    let status = status_of(|| {
        ok!(SYS_setresgid, 1000, 1000, 1000);
        ok!(SYS_setresuid, 1000, 1000, 1000);
        let _ = sys!(SYS_execve, c"g", &args, &null);
        1
    });
    assert_eq!(status, 0);
    let status = status_of(|| {
        ok!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        ok!(SYS_setresgid, 1000, 1000, 1000);
        ok!(SYS_setresuid, 1000, 1000, 1000);
        let _ = sys!(SYS_execve, c"g", &args, &null);
        1
    });
    assert_eq!(status, 0);
}

fn exec_clears_capabilities() {
    as_other();
    let null: *const c_char = std::ptr::null();
    let args = [c"g".as_ptr(), c"ids".as_ptr(), null];
    let status = status_of(|| {
        ok!(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
        ok!(SYS_setresuid, 1000, 1000, 1000);
        let _ = sys!(SYS_execve, c"/proc/self/exe", &args, &null);
        1
    });
    assert_eq!(status, 0);
    // Root without capabilities gets them back by exec, up to the bounding set.
    let status = status_of(|| {
        ok!(SYS_capset, &Header { version: V3, pid: 0 }, &[0u32; 6]);
        let _ = sys!(SYS_execve, c"/proc/self/exe", &args, &null);
        1
    });
    assert_eq!(status, 0);
}

/// What the `ids` command prints.
pub(crate) fn print_ids() {
    println!("uid {}", status_field("Uid"));
    println!("gid {}", status_field("Gid"));
    println!("capabilities {}", caps() != 0);
    let random = getauxval_secure();
    println!("secure {random}");
}

fn getauxval_secure() -> u64 {
    // SAFETY: plain look-up.
    unsafe { getauxval(AT_SECURE) }
}

fn prctl_name() {
    let mut b = [1u8; 16];
    ok!(SYS_prctl, PR_SET_NAME, c"0123456789abcdefgh", 0, 0, 0);
    ok!(SYS_prctl, PR_GET_NAME, &mut b, 0, 0, 0);
    assert_eq!(&b, b"0123456789abcde\0");
    err!(EFAULT: SYS_prctl, PR_SET_NAME, BAD, 0, 0, 0);
    err!(EFAULT: SYS_prctl, PR_GET_NAME, BAD, 0, 0, 0);
    assert_eq!(status_field("Name"), "0123456789abcde");
    // Through /proc as well.
    file_write(c"/proc/self/comm", b"other");
    ok!(SYS_prctl, PR_GET_NAME, &mut b, 0, 0, 0);
    assert_eq!(&b[..6], b"other\0");
}

fn file_write(path: &std::ffi::CStr, data: &[u8]) {
    let fd = open(path, O_WRONLY, 0);
    write(fd, data);
    close(fd);
}

fn prctl_dumpable() {
    assert_eq!(ok!(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0), 1);
    ok!(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    assert_eq!(ok!(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0), 0);
    err!(EINVAL: SYS_prctl, PR_SET_DUMPABLE, 2, 0, 0, 0);
    err!(EINVAL: SYS_prctl, PR_SET_DUMPABLE, 3, 0, 0, 0);
}

fn prctl_errors() {
    err!(EINVAL: SYS_prctl, 99999, 0, 0, 0, 0);
    err!(EINVAL: SYS_prctl, PR_GET_NO_NEW_PRIVS, 1, 0, 0, 0);
    err!(EINVAL: SYS_prctl, PR_SET_CHILD_SUBREAPER + 1000, 0, 0, 0, 0);
    err!(EFAULT: SYS_prctl, PR_GET_PDEATHSIG, BAD, 0, 0, 0);
    err!(EFAULT: SYS_prctl, PR_GET_CHILD_SUBREAPER, BAD, 0, 0, 0);
    let mut n = 9i32;
    ok!(SYS_prctl, PR_GET_CHILD_SUBREAPER, &mut n, 0, 0, 0);
    assert_eq!(n, 0);
}

fn prctl_timer_slack() {
    let slack = ok!(SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0);
    assert_eq!(slack, 50_000);
    ok!(SYS_prctl, PR_SET_TIMERSLACK, 1234, 0, 0, 0);
    assert_eq!(ok!(SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0), 1234);
    ok!(SYS_prctl, PR_SET_TIMERSLACK, 0, 0, 0, 0);
    assert_eq!(ok!(SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0), 50_000);
}

fn securebits() {
    assert_eq!(ok!(SYS_prctl, PR_GET_SECUREBITS, 0, 0, 0, 0), 0);
    need_cap(8);
    ok!(SYS_prctl, PR_SET_SECUREBITS, 1 << 2 | 1 << 3, 0, 0, 0);
    assert_eq!(ok!(SYS_prctl, PR_GET_SECUREBITS, 0, 0, 0, 0), 12);
    err!(EPERM: SYS_prctl, PR_SET_SECUREBITS, 0, 0, 0, 0);
    // No fix-up: a change of ids keeps capabilities.
    ok!(SYS_setresuid, 1000, 1000, 1000);
    assert_ne!(caps(), 0);
}

fn threads_have_own_ids() {
    as_other();
    std::thread::spawn(|| {
        ok!(SYS_setresuid, 1000, 1000, 1000);
        assert_eq!(uids(), [1000; 3]);
    })
    .join()
    .unwrap();
    assert_eq!(uids(), [0; 3]);
}

fn children_inherit() {
    as_other();
    ok!(SYS_setgroups, 1, &[44u32]);
    ok!(SYS_setresgid, 1, 2, 3);
    ok!(SYS_setresuid, 4, 5, 6);
    in_child(|| {
        assert_eq!(uids(), [4, 5, 6]);
        let mut g = [0u32; 4];
        assert_eq!((ok!(SYS_getgroups, 4, &mut g), g[0]), (1, 44));
    });
}

fn status_shows() {
    as_other();
    ok!(SYS_setgroups, 2, &[10u32, 20]);
    ok!(SYS_setresgid, 1, 2, 3);
    ok!(SYS_setresuid, 4, 5, 6);
    println!("{:?} {:?} {:?}", status_field("Uid"), status_field("Gid"), status_field("Groups"));
}
