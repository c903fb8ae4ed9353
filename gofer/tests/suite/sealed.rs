//! Server and client under seccomp filters made of their own lists of host calls.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};

use rsentry_gofer::client::{self, At, Client};
use rsentry_gofer::server::{self, Config, Filter, Server};
use rsentry_gofer::wire::request::{Changes, Owner};
use rsentry_gofer::wire::types::{ExportFlags, OpenFlags, RenameFlags, SetTime};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::common::export;

/// Puts the calling thread, and those that it starts, under a filter: any other call kills the
/// process. Only `openat` is answered with `ENOSYS`, as the launcher's filter does, for malloc's sake.
fn seal(calls: &[&[i64]]) {
    let listed = calls.iter().flat_map(|l| l.iter()).copied().chain([libc::SYS_openat]);
    let refuse = SeccompAction::Errno(libc::ENOSYS as u32);
    apply([libc::SYS_openat], SeccompAction::Allow, refuse);
    apply(listed, SeccompAction::KillProcess, SeccompAction::Allow);
}

fn apply(calls: impl IntoIterator<Item = i64>, others: SeccompAction, these: SeccompAction) {
    let rules: BTreeMap<_, _> = calls.into_iter().map(|nr| (nr, Vec::new())).collect();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, others, these, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// Every request, with more threads than one connection.
fn use_everything(client: &Client, root: &client::Node) {
    let owner = Owner::default();
    let dir = &root.handle;
    let at = |name: &'static str| At { dir, name: name.as_bytes() };
    let (f, fd) = client.create(at("f"), 0o644, OpenFlags::READ | OpenFlags::WRITE, owner).unwrap();
    drop(fd);
    let w = client.walk(dir, &[b"f"], Some(OpenFlags::WRITE | OpenFlags::TRUNCATE)).unwrap();
    assert!(w.file.is_some() && w.error.is_none());
    client.open(&f.handle, Some(at("f")), OpenFlags::READ).unwrap();
    client.mkdir(at("d"), 0o755, owner).unwrap();
    let l = client.symlink(at("l"), b"f", owner).unwrap();
    client.read_link(&l.handle).unwrap();
    let notifier = client.notifier();
    if let Ok(watched) = notifier.and_then(|_| client.watch(dir)) {
        client.unwatch(vec![watched.watch]).unwrap();
    }
    client.mknod(at("p"), libc::S_IFIFO | 0o600, owner).unwrap();
    client.link(&f.handle, at("f"), at("h")).unwrap();
    client.rename(at("h"), at("j"), RenameFlags::empty()).unwrap();
    client.rename(at("j"), at("i"), RenameFlags::NOREPLACE).unwrap();
    client.rename(at("f"), at("i"), RenameFlags::EXCHANGE).unwrap();
    client.unlink(at("i"), false).unwrap();
    client.unlink(at("d"), true).unwrap();
    let changes = Changes {
        mode: Some(0o600),
        owner: Owner { uid: Some(f.attr.uid), gid: Some(f.attr.gid) },
        size: Some(5),
        atime: Some(SetTime::Now),
        mtime: Some(SetTime::Now),
    };
    client.set_attr(&f.handle, Some(at("f")), changes).unwrap();
    match client.set_xattr(&f.handle, Some(at("f")), b"user.a", b"v", 0) {
        Err(abi::Errno::EOPNOTSUPP) => {}
        r => {
            r.unwrap();
            client.get_xattr(&f.handle, Some(at("f")), b"user.a").unwrap();
            client.remove_xattr(&f.handle, Some(at("f")), b"user.a").unwrap();
        }
    }
    client.list_xattr(&f.handle, Some(at("f"))).unwrap();
    client.stat(&f.handle).unwrap();
    client.stat_fs(dir).unwrap();
    client.fsync(&f.handle, Some(at("f")), true).unwrap();
    client.fsync(&f.handle, Some(at("f")), false).unwrap();
    let first = client.read_dir(dir, 0, true).unwrap();
    client.read_dir(dir, first.entries[0].next, false).unwrap();
}

#[test]
fn the_server_lives_on_its_list() {
    let tmp = tempfile::tempdir().unwrap();
    let (ours, theirs) = rsentry_gofer::socket_pair().unwrap();
    let root = export(tmp.path(), ExportFlags::empty(), Filter::host_secrets());
    let server = Server::new(vec![root], Config::default()).unwrap();
    let thread = std::thread::spawn(move || {
        seal(&[server::HOST_SYSCALLS]);
        server.serve(ours)
    });
    let (client, exports) = Client::connect(theirs).unwrap();
    use_everything(&client, &exports[0].root);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..100 {
                    client.stat(&exports[0].root.handle).unwrap();
                }
            });
        }
    });
    drop((client, exports));
    thread.join().unwrap().unwrap();
}

#[test]
fn the_client_lives_on_its_list() {
    let tmp = tempfile::tempdir().unwrap();
    fs::File::create(tmp.path().join("x")).unwrap().write_all(b"x").unwrap();
    let (ours, theirs) = rsentry_gofer::socket_pair().unwrap();
    let root = export(tmp.path(), ExportFlags::empty(), Filter::none());
    // Bounds malloc's arenas in this process, as the launcher does in the Sentry's.
    let server = Server::new(vec![root], Config::default()).unwrap();
    std::thread::spawn(move || server.serve(ours));
    // What starting threads, reading a file and unwinding a failed test take, besides.
    let runtime = &[
        libc::SYS_clone3,
        libc::SYS_clone,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sched_getaffinity,
        libc::SYS_gettid,
        libc::SYS_prctl,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_read,
        libc::SYS_lseek,
        libc::SYS_write,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let body = move || {
        seal(&[client::HOST_SYSCALLS, runtime]);
        let (client, exports) = Client::connect(theirs).unwrap();
        use_everything(&client, &exports[0].root);
        let w = client.walk(&exports[0].root.handle, &[b"x"], Some(OpenFlags::READ)).unwrap();
        let mut text = Vec::new();
        fs::File::from(w.file.unwrap()).read_to_end(&mut text).unwrap();
        assert_eq!(text, b"x");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        client.stat(&exports[0].root.handle).unwrap();
                    }
                });
            }
        });
    };
    std::thread::spawn(body).join().unwrap();
}
