//! Errors, by layer.

use std::{fmt, io};

/// The layers of a jail, in the order in which they are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Layer {
    Cgroup,
    Namespaces,
    IdMaps,
    Descriptors,
    Process,
    Identity,
    Mounts,
    Rlimits,
    Capabilities,
    AppArmor,
    SELinux,
    Landlock,
    Seccomp,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layer::Cgroup => "cgroup",
            Layer::Namespaces => "namespaces",
            Layer::IdMaps => "id maps",
            Layer::Descriptors => "file descriptors",
            Layer::Process => "process attributes",
            Layer::Identity => "user and groups",
            Layer::Mounts => "mounts",
            Layer::Rlimits => "resource limits",
            Layer::Capabilities => "capabilities",
            Layer::AppArmor => "AppArmor",
            Layer::SELinux => "SELinux",
            Layer::Landlock => "Landlock",
            Layer::Seccomp => "seccomp",
        })
    }
}

/// A layer that could not be had. The process that wanted it does not start.
#[derive(Debug, thiserror::Error)]
#[error("{layer}: {what}: {source}")]
pub struct Error {
    /// Which layer.
    pub layer: Layer,
    /// What was tried, with the path or the name.
    pub what: String,
    /// The host's answer.
    pub source: io::Error,
}

impl Error {
    pub(crate) fn new(layer: Layer, what: impl Into<String>, source: io::Error) -> Error {
        Error { layer, what: what.into(), source }
    }
}

/// Adds layer and action to a host call's error.
pub(crate) trait Context<T> {
    fn context(self, layer: Layer, what: impl Into<String>) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, layer: Layer, what: impl Into<String>) -> Result<T, Error> {
        self.map_err(|error| Error::new(layer, what, error.into()))
    }
}
