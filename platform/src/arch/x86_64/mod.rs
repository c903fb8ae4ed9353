//! x86-64: the copy routines with fault fix-up, the stub's code and filter, the decoding of faults.

pub(crate) mod copy;
pub(crate) mod filter;
pub(crate) mod stub;
pub(crate) mod trap;
