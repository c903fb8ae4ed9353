//! Where the measuring program runs: natively, in rsentry, in each peer that is installed.

use anyhow::{Context, Result};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One place to measure in.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its name in the table.
    pub(crate) name: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Native,
    Rsentry {
        rsentry: PathBuf,
        platform: String,
    },
    Bubblewrap,
    Proot,
    /// An OCI runtime that is started with a bundle.
    Oci {
        runtime: String,
        options: Vec<String>,
    },
}

/// Where the guest program's folder appears inside a sandbox.
const INSIDE: &str = "/bench";
/// The folders of the host that every place shows read-only.
const SYSTEM: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc"];

/// The platforms there may be, the slower one first: the next ones should beat it.
const PLATFORMS: [&str; 2] = ["ptrace", "notify"];

/// Every place that can be had here, and what is missing. Without platforms, all that start are.
pub(crate) fn all(rsentry: Option<&Path>, platforms: &[String]) -> (Vec<Place>, Vec<String>) {
    let mut places = vec![Place { name: "native".into(), kind: Kind::Native }];
    let mut missing = Vec::new();
    let platforms = match platforms {
        [] => PLATFORMS.map(String::from).to_vec(),
        some => some.to_vec(),
    };
    let mut candidates = Vec::new();
    match rsentry {
        Some(rsentry) => candidates.extend(platforms.into_iter().map(|platform| {
            let name = format!("rsentry {platform}");
            (name, "rsentry", Kind::Rsentry { rsentry: rsentry.to_path_buf(), platform })
        })),
        None => missing.push("rsentry: it could not be built".into()),
    }
    let peers = [
        ("bubblewrap", "bwrap", Kind::Bubblewrap),
        ("proot", "proot", Kind::Proot),
        ("runc", "runc", Kind::Oci { runtime: "runc".into(), options: Vec::new() }),
        ("crun", "crun", Kind::Oci { runtime: "crun".into(), options: Vec::new() }),
        (
            "runsc",
            "runsc",
            Kind::Oci {
                runtime: "runsc".into(),
                options: vec!["--network=none".into(), "--ignore-cgroups".into()],
            },
        ),
    ];
    candidates.extend(peers.map(|(name, program, kind)| (name.to_string(), program, kind)));
    for (name, program, kind) in candidates {
        let place = Place { name: name.clone(), kind };
        if !place.is_rsentry() && !installed(program) {
            missing.push(format!("{name}: {program} is not installed"));
        } else if let Err(why) = place.works() {
            missing.push(format!("{name}: it does not start here: {why}"));
        } else {
            places.push(place);
        }
    }
    (places, missing)
}

fn installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(program).is_file()))
}

/// A command with what must outlive it.
pub(crate) struct Started {
    /// The command, not yet started.
    pub(crate) command: Command,
    _container: Option<Container>,
}

/// What an OCI runtime was given; gone without a trace once this is dropped.
struct Container {
    runtime: String,
    options: Vec<String>,
    id: String,
    _bundle: tempfile::TempDir,
}

impl Drop for Container {
    fn drop(&mut self) {
        // A runtime that was killed has left its notes and cgroups behind.
        let mut delete = Command::new(&self.runtime);
        delete.args(&self.options).args(["delete", "--force", &self.id]);
        let _ = delete.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

impl Place {
    /// Whether this is the host itself.
    pub(crate) fn is_native(&self) -> bool {
        matches!(self.kind, Kind::Native)
    }

    /// Whether this is rsentry, on whatever platform.
    pub(crate) fn is_rsentry(&self) -> bool {
        matches!(self.kind, Kind::Rsentry { .. })
    }

    fn works(&self) -> Result<(), String> {
        let mut s =
            self.command(Path::new("/usr/bin/env"), &["/bin/true"]).map_err(|e| e.to_string())?;
        let out = s.command.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
        if out.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&out.stderr);
        Err(said.lines().last().unwrap_or("no message").to_string())
    }

    /// The guest program's path as the place shows it.
    pub(crate) fn path_of(&self, guest: &Path) -> String {
        let file = guest.file_name().unwrap_or_default().to_string_lossy();
        match self.kind {
            Kind::Native | Kind::Proot => guest.display().to_string(),
            _ => format!("{INSIDE}/{file}"),
        }
    }

    /// A command that runs `args` there, with the folder of `guest` in sight and a writable /tmp.
    pub(crate) fn command(&self, guest: &Path, args: &[&str]) -> Result<Started> {
        let folder = guest.parent().unwrap_or(Path::new("/"));
        let mut container = None;
        let mut command;
        match &self.kind {
            Kind::Native => {
                command = Command::new(args.first().context("no program")?);
                command.args(&args[1..]);
            }
            Kind::Rsentry { rsentry, platform } => {
                command = Command::new(rsentry);
                command.args(["run", "--platform", platform, "--ro"]);
                command.arg(format!("{}:{INSIDE}", folder.display())).arg("--").args(args);
            }
            Kind::Bubblewrap => {
                command = Command::new("bwrap");
                command.args([
                    "--unshare-all",
                    "--die-with-parent",
                    "--proc",
                    "/proc",
                    "--dev",
                    "/dev",
                ]);
                for dir in SYSTEM {
                    match std::fs::read_link(dir) {
                        Ok(to) => command.arg("--symlink").arg(to).arg(dir),
                        Err(_) if Path::new(dir).exists() => command.args(["--ro-bind", dir, dir]),
                        Err(_) => &mut command,
                    };
                }
                command.args(["--tmpfs", "/tmp", "--ro-bind"]).arg(folder).arg(INSIDE).args(args);
            }
            Kind::Proot => {
                command = Command::new("proot");
                command.args(["-r", "/"]).args(args);
            }
            Kind::Oci { runtime, options } => {
                let bundle = tempfile::tempdir()?;
                oci_bundle(bundle.path(), folder, args)?;
                let id = format!("rsentry-bench-{}-{}", std::process::id(), unique());
                command = Command::new(runtime);
                command.args(options).args(["run", "--bundle"]).arg(bundle.path()).arg(&id);
                let (runtime, options) = (runtime.clone(), options.clone());
                container = Some(Container { runtime, options, id, _bundle: bundle });
            }
        }
        Ok(Started { command, _container: container })
    }
}

fn unique() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// A minimal bundle: the host's system folders read-only, a fresh /tmp, /proc and /dev.
fn oci_bundle(dir: &Path, folder: &Path, args: &[&str]) -> Result<()> {
    let root = dir.join("rootfs");
    std::fs::create_dir(&root)?;
    let tmpfs = |at: &str, options: &[&str]| json!({"destination": at, "type": "tmpfs", "source": "tmpfs", "options": options});
    let bind = |from: &Path, at: &str| json!({"destination": at, "type": "bind", "source": from, "options": ["rbind", "ro"]});
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        tmpfs("/dev", &["nosuid", "mode=755"]),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}),
        tmpfs("/dev/shm", &["nosuid", "nodev", "mode=1777"]),
        tmpfs("/tmp", &["mode=1777"]),
        bind(folder, INSIDE),
    ];
    for at in SYSTEM {
        match std::fs::read_link(at) {
            Ok(to) => std::os::unix::fs::symlink(to, root.join(at.trim_start_matches('/')))?,
            Err(_) if Path::new(at).exists() => mounts.push(bind(Path::new(at), at)),
            Err(_) => {}
        }
    }
    let caps = ["CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID"];
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "bench",
        "mounts": mounts,
        "linux": {"namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}]}
    });
    std::fs::write(dir.join("config.json"), serde_json::to_vec(&config)?)?;
    Ok(())
}
