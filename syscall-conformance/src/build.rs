//! Builds what the runner needs: the static guest program and the `rsentry` command.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's root folder.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// The folder cargo puts its output in: where this program itself was built, or `target`.
pub fn target_dir() -> PathBuf {
    let built = std::env::current_exe().ok().and_then(|exe| {
        exe.ancestors().find(|d| d.join("CACHEDIR.TAG").exists()).map(Path::to_path_buf)
    });
    built.unwrap_or_else(|| workspace().join("target"))
}

/// Builds a package's binary as a static program and returns its path.
///
/// It has a target folder of its own, because the flag differs from the workspace's, and names the
/// target, so that the flag reaches no build script.
pub fn static_guest(package: &str, bin: &str, release: bool) -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let dir = target_dir().join("guest");
    let mut cargo = cargo();
    cargo
        .args(["build", "--quiet", "--package", package, "--bin", bin, "--target", TARGET])
        .arg("--target-dir")
        .arg(&dir)
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static");
    if release {
        cargo.arg("--release");
    }
    finish(cargo, bin)?;
    Ok(dir.join(TARGET).join(profile(release)).join(bin))
}

/// Builds the `rsentry` command and returns its path.
pub fn rsentry(release: bool) -> Result<PathBuf> {
    let dir = target_dir();
    let mut cargo = cargo();
    cargo.args(["build", "--quiet", "--package", "rsentry", "--bin", "rsentry"]);
    cargo.arg("--target-dir").arg(&dir);
    if release {
        cargo.arg("--release");
    }
    finish(cargo, "rsentry")?;
    Ok(dir.join(profile(release)).join("rsentry"))
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    // Set by the cargo that runs us, for us and not for the one we start.
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" || name == "RUSTFLAGS" {
            cargo.env_remove(&key);
        }
    }
    cargo
}

fn finish(mut cargo: Command, what: &str) -> Result<()> {
    let status = cargo.status().with_context(|| format!("cannot start cargo to build {what}"))?;
    if !status.success() {
        bail!("building {what} failed");
    }
    Ok(())
}

fn profile(release: bool) -> &'static str {
    if release { "release" } else { "debug" }
}
