//! Measures round trips to a gofer in another thread: `cargo run --release -p rsentry-gofer
//! --example round_trip`. With `spin` as argument, another thread keeps a second CPU busy.

use std::time::Instant;

use rsentry_gofer::client::Client;
use rsentry_gofer::server::{Export, Filter, serve};
use rsentry_gofer::wire::types::{ExportFlags, OpenFlags};

fn main() {
    if std::env::args().nth(1).as_deref() == Some("spin") {
        std::thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
    }
    let root = std::fs::File::open("/").expect("open /").into();
    let flags = ExportFlags::READ_ONLY;
    let export = Export { root, tag: b"/".to_vec(), flags, filter: Filter::host_secrets() };
    let (ours, theirs) = rsentry_gofer::socket_pair().expect("socket pair");
    std::thread::spawn(move || serve(vec![export], ours));
    let (client, exports) = Client::connect(theirs).expect("hello");
    let root = &exports[0].root.handle;
    let usr = client.walk(root, &[b"usr", b"bin"], None).expect("walk").found.pop().expect("bin");
    let measure = |what: &str, f: &dyn Fn()| {
        for _ in 0..200 {
            f();
        }
        let mut best = f64::MAX;
        for _ in 0..10 {
            let start = Instant::now();
            for _ in 0..500 {
                f();
            }
            best = best.min(start.elapsed().as_secs_f64() / 500.0 * 1e6);
        }
        println!("{what:<40} {best:8.1} µs");
    };
    measure("stat of a node", &|| assert!(client.stat(root).is_ok()));
    measure("walk of 1", &|| drop(client.walk(root, &[b"etc"], None)));
    measure("walk of 1, missing", &|| drop(client.walk(root, &[b"nothing"], None)));
    measure("walk of 3 and open", &|| {
        drop(client.walk(root, &[b"usr", b"bin", b"env"], Some(OpenFlags::READ)));
    });
    measure("listing of /usr/bin", &|| drop(client.read_dir(&usr.handle, 0, false)));
    measure("listing of /usr/bin with attributes", &|| drop(client.read_dir(&usr.handle, 0, true)));
}
