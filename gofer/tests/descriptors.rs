//! A client that has no descriptor left. A process of its own, because it lowers its limit.

use std::fs::File;

use abi::Errno;
use rsentry_gofer::client::Client;
use rsentry_gofer::server::{Config, Export, Filter, Server};
use rsentry_gofer::wire::types::{ExportFlags, OpenFlags};

#[test]
fn running_out_of_descriptors_is_no_fault_of_the_gofer() {
    let tmp = tempfile::tempdir().unwrap();
    std::fs::write(tmp.path().join("f"), "x").unwrap();
    let root = File::open(tmp.path()).unwrap().into();
    let flags = ExportFlags::empty();
    let export = Export { root, tag: Vec::new(), flags, filter: Filter::none() };
    let (ours, theirs) = rsentry_gofer::socket_pair().unwrap();
    let server = Server::new(vec![export], Config::default()).unwrap();
    // The server opens, sends and closes in one thread, so that the client's end is what fails: one
    // descriptor is free, which the server takes for the file itself until it was sent.
    std::thread::spawn(move || server.serve(ours));
    let (client, exports) = Client::connect(theirs).unwrap();
    let root = &exports[0].root.handle;
    let limit = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
    // SAFETY: `limit` is alive.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    let mut hoard = Vec::new();
    while let Ok(f) = File::open("/dev/null") {
        hoard.push(f);
    }
    for spare in 0..6 {
        let w = client.walk(root, &[b"f"], Some(OpenFlags::READ));
        let failed = match w {
            Err(e) => Some(e),
            Ok(w) => w.error,
        };
        assert!(matches!(failed, Some(Errno::ENFILE) | None), "{failed:?} with {spare}");
        assert!(!client.is_dead());
        hoard.pop();
    }
    assert!(client.walk(root, &[b"f"], Some(OpenFlags::READ)).unwrap().file.is_some());
}
