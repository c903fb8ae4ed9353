//! What a sandbox sees of the host's files: which trees the gofer exports, and where the Sentry
//! mounts them.
//!
//! Every export is a directory `0`, `1`, ... (or a file of that name) in the gofer's root. The
//! default view's first export is composed of bind mounts of the system directories; the current
//! directory is an export of its own, so that what is stricter about the system directories (only
//! what everybody on the host may read is readable, even for root) does not hold there.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use lockdown::View;
use sentry::boot::spec::{MountKind, MountSpec};

use crate::error::Error;
use crate::kernel_files::Mounts;
use crate::sandbox::Bind;

/// The trees and mounts of one sandbox.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    /// The gofer's root directory.
    pub(crate) view: View,
    /// The gofer's exports.
    pub(crate) exports: Vec<Export>,
    /// The Sentry's mounts.
    pub(crate) mounts: Vec<MountSpec>,
    /// There are trees that the caller named: `--root`, `--ro`, `--rw`.
    pub(crate) named: bool,
}

/// One export: the file or directory `/N` in the gofer's root, N being its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Export {
    /// Where the guest sees it.
    pub(crate) destination: PathBuf,
    /// Whether the guest's writes reach the host.
    pub(crate) writable: bool,
    /// It is one file.
    pub(crate) file: bool,
    /// It lies under an overlay. As with Linux's overlay, the host should leave it alone meanwhile,
    /// so names and attributes can be cached.
    pub(crate) overlay: bool,
    /// The host's system directories: secrets are hidden.
    pub(crate) system: bool,
    /// Patterns to hide, relative to the export's root.
    pub(crate) hidden: &'static [&'static str],
}

/// Names in `/` of a host that make up its system, with those that start with `lib`.
const SYSTEM: &[&str] = &["bin", "etc", "sbin", "usr"];

/// Empty directories that programs expect besides, with their permission bits.
const EMPTY: &[(&str, u32)] = &[
    ("dev", 0o755),
    ("home", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o755),
    ("run", 0o755),
    ("run/lock", 0o1777),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
];

/// Files of the default view that even a fully compromised gofer must not reach. The gofer's own
/// filter hides these and more.
const MASKED: &[&str] = &[
    "etc/shadow",
    "etc/shadow-",
    "etc/gshadow",
    "etc/gshadow-",
    "etc/sudoers",
    "etc/sudoers.d",
    "etc/ssl/private",
    "etc/security/opasswd",
    "etc/krb5.keytab",
    "etc/wireguard",
    "etc/letsencrypt",
    "etc/NetworkManager/system-connections",
];

/// What is hidden of a home directory, if that is where `rsentry` was started.
const HOME_SECRETS: &[&str] = &[
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".netrc",
    ".npmrc",
    ".pypirc",
    ".git-credentials",
    ".config/gcloud",
    ".config/gh",
    ".cargo/credentials*",
    ".password-store",
    ".mozilla",
    ".config/chromium",
    ".config/google-chrome",
    ".local/share/keyrings",
    ".pki",
    ".bash_history",
    ".python_history",
    ".psql_history",
    ".mysql_history",
    ".pgpass",
    ".my.cnf",
];

/// Guest paths below which kernel file systems lie: nothing of the host can be put there.
const KERNEL: &[&str] = &["/proc", "/sys"];

impl Files {
    /// A root of the user's choice, under the overlay.
    pub(crate) fn with_root(root: &Path) -> Result<Files, Error> {
        let source = existing("--root", root)?;
        if !source.is_dir() {
            return Err(Error::option("--root", format!("{root:?} is not a directory")));
        }
        let mut files = Files { named: true, ..Files::default() };
        files.export("--root", source, PathBuf::from("/"), Access::Overlay, false)?;
        files.kernel_mounts();
        Ok(files)
    }

    /// The host's system directories under the overlay, and an empty `home`.
    pub(crate) fn of_the_host(home: &Path) -> Result<Files, Error> {
        let mut files = Files::default();
        files.view.directories.push(("0".into(), 0o755));
        for (name, mode) in EMPTY {
            files.view.directories.push((Path::new("0").join(name), *mode));
        }
        let entries = fs::read_dir("/").map_err(|error| Error::host("reading /", error))?;
        for entry in entries {
            let entry = entry.map_err(|error| Error::host("reading /", error))?;
            let name = entry.file_name();
            let known =
                name.to_str().is_some_and(|name| SYSTEM.contains(&name) || name.starts_with("lib"));
            if !known {
                continue;
            }
            let (source, at) = (entry.path(), Path::new("0").join(&name));
            let kind = entry.file_type().map_err(|error| Error::host("reading /", error))?;
            if kind.is_symlink() {
                let target = fs::read_link(&source)
                    .map_err(|error| Error::host(format!("reading {source:?}"), error))?;
                files.view.symlinks.push((at, target));
            } else if kind.is_dir() {
                files.view.binds.push(lockdown::Bind { source, at, writable: false });
            }
        }
        files.view.symlinks.push(("0/var/run".into(), "/run".into()));
        files.view.symlinks.push(("0/var/lock".into(), "/run/lock".into()));
        if !files.shows(home) {
            files.make_parents(home);
        }
        files.view.masks.extend(MASKED.iter().map(|path| ("0".into(), PathBuf::from(path))));
        files.exports.push(Export {
            destination: "/".into(),
            writable: false,
            file: false,
            overlay: true,
            system: true,
            hidden: &[],
        });
        files.mount(Path::new("/"), Access::Overlay.mount(0, false));
        files.kernel_mounts();
        Ok(files)
    }

    /// Shows the current directory at its own path, under an overlay of its own. Directories that
    /// hold other people's homes, or everything, are left empty instead.
    pub(crate) fn with_current_directory(&mut self, cwd: &Path, home: &Path) -> Result<(), Error> {
        let kernels = KERNEL.iter().chain(["/dev"].iter());
        if kernels.into_iter().any(|top| cwd.starts_with(top)) && !cwd.starts_with("/dev/shm") {
            return Err(Error::Usage(format!(
                "the current directory {cwd:?} cannot be shown inside; name another with --workdir"
            )));
        }
        if self.shows(cwd) {
            return Ok(());
        }
        let holds_homes = home.starts_with(cwd) && home != cwd || cwd == Path::new("/home");
        if cwd == Path::new("/") || holds_homes {
            self.make_parents(cwd);
            return Ok(());
        }
        // The mount point, except where another mount will cover it.
        if !["/tmp", "/dev"].iter().any(|top| cwd.starts_with(top)) {
            self.make_parents(cwd);
        }
        self.export("--workdir", cwd.to_owned(), cwd.to_owned(), Access::Overlay, false)?;
        if home == cwd
            && let Some(export) = self.exports.last_mut()
        {
            export.hidden = HOME_SECRETS;
        }
        Ok(())
    }

    /// Adds what `--ro`, `--rw` and `--tmpfs` ask for, outer mount points first.
    pub(crate) fn add(
        &mut self,
        binds: &[Bind],
        tmpfs: &[PathBuf],
        cwd: impl Fn() -> Result<PathBuf, Error>,
    ) -> Result<(), Error> {
        let mut all: Vec<(PathBuf, Option<&Bind>)> = Vec::new();
        for bind in binds {
            let option = option_of(bind);
            let wanted = match &bind.destination {
                Some(destination) => destination.clone(),
                None if bind.source.is_absolute() => bind.source.clone(),
                None => cwd()?.join(&bind.source),
            };
            all.push((mount_point(option, &wanted)?, Some(bind)));
        }
        for wanted in tmpfs {
            all.push((mount_point("--tmpfs", wanted)?, None));
        }
        all.sort_by_key(|(destination, _)| destination.components().count());
        for (at, (destination, bind)) in all.iter().enumerate() {
            let option = bind.map_or("--tmpfs", option_of);
            if all.iter().take(at).any(|(other, _)| other == destination) {
                return Err(Error::option(option, format!("{destination:?} is mounted twice")));
            }
            // A mount of the defaults at the same place gives way.
            self.mounts.retain(|mount| mount.dst != destination.as_os_str().as_bytes());
            match bind {
                None => self.mount(destination, MountKind::Tmpfs { mode: 0o1777 }),
                Some(bind) => {
                    let source = existing(option, &bind.source)?;
                    self.named = true;
                    let file = !source.is_dir();
                    let access = if bind.writable { Access::Write } else { Access::Read };
                    self.export(option, source, destination.clone(), access, file)?;
                }
            }
        }
        Ok(())
    }

    /// Whether any export can be written.
    pub(crate) fn writable(&self) -> bool {
        self.exports.iter().any(|export| export.writable)
    }

    fn export(
        &mut self,
        option: &'static str,
        source: PathBuf,
        destination: PathBuf,
        access: Access,
        file: bool,
    ) -> Result<(), Error> {
        let index = self.exports.len();
        let writable = access == Access::Write;
        let mounts = Mounts::now().map_err(|error| Error::host("reading mountinfo", error))?;
        let hidden = mounts.hidden_in(&source).map_err(|problem| Error::option(option, problem))?;
        let at = PathBuf::from(index.to_string());
        let index = u32::try_from(index)
            .map_err(|_| Error::Usage("too many files and directories to show".into()))?;
        self.view.masks.extend(hidden.into_iter().map(|path| (at.clone(), path)));
        self.view.binds.push(lockdown::Bind { source, at, writable });
        self.mount(&destination, access.mount(index, file));
        let overlay = access == Access::Overlay;
        self.exports.push(Export {
            destination,
            writable,
            file,
            overlay,
            system: false,
            hidden: &[],
        });
        Ok(())
    }

    fn kernel_mounts(&mut self) {
        self.mount(Path::new("/proc"), MountKind::Proc);
        self.mount(Path::new("/sys"), MountKind::Sys);
        self.mount(Path::new("/dev"), MountKind::Dev);
        self.mount(Path::new("/tmp"), MountKind::Tmpfs { mode: 0o1777 });
    }

    fn mount(&mut self, destination: &Path, kind: MountKind) {
        self.mounts.push(MountSpec { dst: destination.as_os_str().as_bytes().to_vec(), kind });
    }

    /// Whether the first export shows this path of the host.
    fn shows(&self, path: &Path) -> bool {
        let path = path.strip_prefix("/").unwrap_or(path);
        self.view.binds.iter().any(|bind| {
            bind.at.strip_prefix("0").is_ok_and(|at| at != Path::new("") && path.starts_with(at))
        })
    }

    /// Makes the empty directory `path`, and its parents, in the first export.
    fn make_parents(&mut self, path: &Path) {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let mut at = PathBuf::from("0");
        for component in relative.components() {
            at.push(component);
            if !self.view.directories.iter().any(|(other, _)| *other == at) {
                self.view.directories.push((at.clone(), 0o755));
            }
        }
    }
}

/// How an export is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Writes go to memory.
    Overlay,
    /// Writes are refused.
    Read,
    /// Writes reach the host.
    Write,
}

impl Access {
    fn mount(self, export: u32, file: bool) -> MountKind {
        MountKind::Gofer {
            export,
            overlay: self == Access::Overlay,
            readonly: self == Access::Read,
            file,
        }
    }
}

fn option_of(bind: &Bind) -> &'static str {
    if bind.writable { "--rw" } else { "--ro" }
}

/// The canonical path of something that is there, and is a file or a directory.
fn existing(option: &'static str, path: &Path) -> Result<PathBuf, Error> {
    let problem = |error: io::Error| Error::option(option, format!("{path:?}: {}", plain(&error)));
    let real = path.canonicalize().map_err(problem)?;
    let kind = real.metadata().map_err(problem)?.file_type();
    if kind.is_dir() || kind.is_file() {
        Ok(real)
    } else {
        Err(Error::option(option, format!("{path:?} is neither a file nor a directory")))
    }
}

/// The error's text, as strerror(3) has it.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text.get(..end).unwrap_or(&text).to_owned(),
        None => text,
    }
}

/// An absolute guest path without `.` and `..`, resolved as text.
pub(crate) fn guest_path(option: &'static str, path: &Path) -> Result<PathBuf, Error> {
    if !path.is_absolute() {
        return Err(Error::option(option, format!("{path:?} is not an absolute path")));
    }
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(clean)
}

fn mount_point(option: &'static str, path: &Path) -> Result<PathBuf, Error> {
    let clean = guest_path(option, path)?;
    if clean == Path::new("/") {
        return Err(Error::option(option, "nothing can be mounted over '/'; see --root"));
    }
    if KERNEL.iter().any(|top| clean.starts_with(top)) {
        return Err(Error::option(option, format!("nothing can be mounted at {clean:?}")));
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(files: &Files) -> Vec<&str> {
        files.mounts.iter().map(|mount| std::str::from_utf8(&mount.dst).unwrap()).collect()
    }

    #[test]
    fn guest_paths_are_absolute_and_clean() {
        let clean = |path: &str| guest_path("--tmpfs", Path::new(path)).ok();
        assert_eq!(clean("/a/./b/../c//d/"), Some("/a/c/d".into()));
        assert_eq!(clean("/../.."), Some("/".into()));
        assert_eq!(clean("a"), None);
        for bad in ["/", "/..", "/proc", "/sys/x", "/a/../proc/1"] {
            assert!(mount_point("--ro", Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_default_view_has_system_directories_and_the_current_one_but_no_homes() {
        let directory = tempfile::tempdir().unwrap();
        let cwd = directory.path().canonicalize().unwrap();
        let mut files = Files::of_the_host(Path::new("/home/somebody")).unwrap();
        files.with_current_directory(&cwd, Path::new("/home/somebody")).unwrap();
        let places = places(&files);
        assert_eq!(places[..5], ["/", "/proc", "/sys", "/dev", "/tmp"]);
        assert_eq!(places[5..], [cwd.to_str().unwrap()]);
        assert_eq!(files.exports.len(), 2);
        assert!(!files.writable());
        for bind in &files.view.binds {
            assert!(!bind.writable && !bind.source.starts_with("/home"), "{bind:?}");
        }
        let names: Vec<_> = files.view.directories.iter().map(|(at, _)| at.clone()).collect();
        assert!(names.contains(&"0/home/somebody".into()));
    }

    #[test]
    fn the_root_and_directories_of_homes_are_not_shown() {
        for cwd in ["/", "/home", "/data/homes"] {
            let home = Path::new("/data/homes/me");
            let mut files = Files::of_the_host(home).unwrap();
            files.with_current_directory(Path::new(cwd), home).unwrap();
            assert_eq!(files.exports.len(), 1, "{cwd}");
        }
        let mut files = Files::of_the_host(Path::new("/root")).unwrap();
        assert!(files.with_current_directory(Path::new("/proc/self"), Path::new("/x")).is_err());
        files.with_current_directory(Path::new("/usr/share"), Path::new("/root")).unwrap();
        assert_eq!(files.exports.len(), 1, "below /usr it is there already");
    }

    #[test]
    fn asked_for_mounts_come_outermost_first_and_replace_defaults() {
        let directory = tempfile::tempdir().unwrap();
        let bind = |destination: &str| Bind {
            source: directory.path().to_owned(),
            destination: Some(destination.into()),
            writable: true,
        };
        let none = || unreachable!("absolute paths only");
        let mut files = Files::with_root(directory.path()).unwrap();
        files.add(&[bind("/tmp/a/b"), bind("/tmp")], &["/tmp/a".into()], none).unwrap();
        assert_eq!(places(&files), ["/", "/proc", "/sys", "/dev", "/tmp", "/tmp/a", "/tmp/a/b"]);
        assert!(files.writable());
        let mut files = Files::with_root(directory.path()).unwrap();
        let error = files.add(&[bind("/x")], &["/x/.".into()], none).unwrap_err();
        assert_eq!(error.to_string(), "--tmpfs: \"/x\" is mounted twice");
    }

    #[test]
    fn missing_sources_are_named() {
        let error = Files::with_root(Path::new("/no/such")).unwrap_err();
        assert_eq!(error.to_string(), "--root: \"/no/such\": No such file or directory");
        let error = Files::with_root(Path::new("/dev/null")).unwrap_err();
        assert_eq!(error.to_string(), "--root: \"/dev/null\" is neither a file nor a directory");
    }
}
