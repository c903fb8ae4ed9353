//! What depends on the processor. Everything else in the crate, and everything outside it, does
//! not.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("rsentry runs on x86-64 hosts only, so far");
