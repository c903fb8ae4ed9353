//! The host-facing side: namespaces, mounts, seccomp, capabilities, limits.
