//! Watches of directories: what is told of which, and to whom.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;

use abi::Errno;
use rsentry_gofer::client::Client;
use rsentry_gofer::server::Filter;
use rsentry_gofer::socket_pair;
use rsentry_gofer::wire::RequestFrame;
use rsentry_gofer::wire::cursor::Wire;
use rsentry_gofer::wire::reply::Done;
use rsentry_gofer::wire::types::ExportFlags;

use crate::common::{export, serve, serve_dir};
use crate::hostile::{hello, recv, reply, send, send_with_fds};

/// What waits in a notifier: (watch, mask, name).
fn events(notifier: &OwnedFd) -> Vec<(u32, u32, String)> {
    let mut file = fs::File::from(notifier.try_clone().unwrap());
    let mut buf = [0; 8192];
    let mut found = Vec::new();
    let Ok(n) = file.read(&mut buf) else { return found };
    let mut rest = &buf[..n];
    while let Some((header, tail)) = rest.split_first_chunk::<16>() {
        let word = |i: usize| u32::from_ne_bytes(header[i..i + 4].try_into().unwrap());
        let (name, tail) = tail.split_at(word(12) as usize);
        let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
        found.push((word(0), word(4), name));
        rest = tail;
    }
    found
}

#[test]
fn changes_of_names_and_of_access_are_told() {
    let tmp = tempfile::tempdir().unwrap();
    let path = |p: &str| tmp.path().join(p);
    fs::create_dir_all(path("d/inner")).unwrap();
    let home = std::env::current_dir().unwrap();
    let s = serve_dir(tmp.path());
    let d = s.find("d");
    assert_eq!(s.client.watch(&d.handle).err(), Some(Errno::EINVAL), "nobody asked for a notifier");
    let notifier = s.client.notifier().unwrap();
    let watched = match s.client.watch(&d.handle) {
        Err(Errno::EOPNOTSUPP) => return eprintln!("skipped: not on this file system"),
        watched => watched.unwrap().watch,
    };
    assert_eq!(s.client.watch(&d.handle).err(), Some(Errno::EEXIST));
    fs::write(path("d/a"), "x").unwrap();
    fs::write(path("d/inner/b"), "x").unwrap();
    fs::rename(path("d"), path("e")).unwrap();
    fs::rename(path("e/a"), path("a")).unwrap();
    fs::create_dir(path("d")).unwrap();
    fs::write(path("d/other"), "x").unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path("e"), fs::Permissions::from_mode(0o700)).unwrap();
    let told: Vec<(u32, String)> = events(&notifier)
        .into_iter()
        .map(|(watch, mask, name)| {
            assert_eq!(watch, watched);
            (mask & !libc::IN_ISDIR, name)
        })
        .collect();
    let expected = [
        (libc::IN_CREATE, "a".to_owned()),
        (libc::IN_MOVED_FROM, "a".to_owned()),
        (libc::IN_ATTRIB, String::new()),
    ];
    assert_eq!(told, expected);
    s.client.unwatch(vec![watched, 12345, u32::MAX]).unwrap();
    assert_eq!(events(&notifier), [(watched, libc::IN_IGNORED, String::new())]);
    fs::write(path("e/c"), "x").unwrap();
    assert_eq!(events(&notifier), []);
    s.client.watch(&d.handle).unwrap();
    // A file is not watched.
    let file = s.find("a");
    assert_eq!(s.client.watch(&file.handle).err(), Some(Errno::ENOTDIR));
    assert_eq!(std::env::current_dir().unwrap(), home);
    drop((d, file));
    s.finish();
}

#[test]
fn what_hides_something_is_not_watched() {
    let tmp = tempfile::tempdir().unwrap();
    let refused = |flags, filter| {
        let s = serve(vec![export(tmp.path(), flags, filter)]);
        s.client.notifier().unwrap();
        assert_eq!(s.client.watch(s.root()).err(), Some(Errno::EOPNOTSUPP));
        s.finish();
    };
    refused(ExportFlags::empty(), Filter::none().hide("secret"));
    refused(ExportFlags::EXCLUSIVE, Filter::none());
    // A directory that not everybody may read, where only public ones are shown.
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(tmp.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let s = serve(vec![export(tmp.path(), ExportFlags::PUBLIC_ONLY, Filter::none())]);
    s.client.notifier().unwrap();
    assert_eq!(s.client.watch(s.root()).err(), Some(Errno::EACCES));
    s.finish();
}

#[test]
fn watches_are_counted() {
    let tmp = tempfile::tempdir().unwrap();
    for i in 0..2100 {
        fs::create_dir(tmp.path().join(format!("{i}"))).unwrap();
    }
    let s = serve_dir(tmp.path());
    s.client.notifier().unwrap();
    let mut watches = Vec::new();
    let error = (0..2100).find_map(|i| {
        let dir = s.find(&i.to_string());
        s.client.watch(&dir.handle).map(|w| watches.push(w.watch)).err()
    });
    if watches.is_empty() {
        return eprintln!("skipped: {error:?}");
    }
    assert_eq!(error, Some(Errno::ENOSPC));
    for some in watches.chunks(256) {
        s.client.unwatch(some.to_vec()).unwrap();
    }
    s.client.watch(s.root()).unwrap();
    s.finish();
}

/// A server that passes something else, which could block or act when it is read.
#[test]
fn a_notifier_that_is_none() {
    let (ours, theirs) = socket_pair().unwrap();
    let thread = std::thread::spawn(move || {
        send(&ours, &hello(&recv(&ours)));
        let asked = recv(&ours);
        let request = RequestFrame::decode(&asked).unwrap();
        let answer = reply(request.id, request.request.op(), 1, |w| Done {}.put(w));
        // Descriptors of a file.
        send_with_fds(&ours, &answer, 1);
    });
    let (client, _exports) = Client::connect(theirs).unwrap();
    assert_eq!(client.notifier().err(), Some(Errno::EIO));
    assert!(client.is_dead());
    thread.join().unwrap();
}
