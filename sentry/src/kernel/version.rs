//! Which Linux the guest is told that it runs on.

/// `uname -r`.
pub const RELEASE: &str = "6.12.0-rsentry";
/// `uname -v`.
pub const VERSION: &str = "#1 SMP PREEMPT_DYNAMIC rsentry";
