//! A gofer in a thread and a client of it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::JoinHandle;

use rsentry_gofer::client::{At, Client, Export, Handle, Node};
use rsentry_gofer::server::{self, Filter, Server};
use rsentry_gofer::wire::types::ExportFlags;

pub(crate) struct Served {
    pub(crate) client: Client,
    pub(crate) exports: Vec<Export>,
    server: Option<JoinHandle<Result<(), server::Error>>>,
}

pub(crate) fn open_root(path: &Path) -> OwnedFd {
    std::fs::File::open(path).unwrap().into()
}

pub(crate) fn export(path: &Path, flags: ExportFlags, filter: Filter) -> server::Export {
    server::Export { root: open_root(path), tag: b"/".to_vec(), flags, filter }
}

pub(crate) fn serve(exports: Vec<server::Export>) -> Served {
    serve_with(exports, server::Config::default())
}

pub(crate) fn serve_with(exports: Vec<server::Export>, config: server::Config) -> Served {
    let (ours, theirs) = rsentry_gofer::socket_pair().unwrap();
    let server = Server::new(exports, config).unwrap();
    let thread = std::thread::spawn(move || server.serve(ours));
    let (client, exports) = Client::connect(theirs).unwrap();
    Served { client, exports, server: Some(thread) }
}

/// Serves one directory, writable.
pub(crate) fn serve_dir(path: &Path) -> Served {
    serve(vec![export(path, ExportFlags::empty(), Filter::none())])
}

impl Served {
    pub(crate) fn root(&self) -> &Handle {
        &self.exports[0].root.handle
    }

    pub(crate) fn at<'a>(&'a self, name: &'a str) -> At<'a> {
        At { dir: self.root(), name: name.as_bytes() }
    }

    /// Walks a path below the root, which must exist.
    pub(crate) fn find(&self, path: &str) -> Node {
        let names: Vec<&[u8]> = path.split('/').map(str::as_bytes).collect();
        let mut w = self.client.walk(self.root(), &names, None).unwrap();
        assert_eq!((w.error, w.found.len()), (None, names.len()), "{path}");
        w.found.pop().unwrap()
    }

    /// Ends the client, then checks that the server ended well. No handle may be left elsewhere.
    pub(crate) fn finish(mut self) {
        let thread = self.server.take().unwrap();
        drop(self);
        thread.join().unwrap().unwrap();
    }
}
