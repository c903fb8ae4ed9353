//! x86-64: the copy routines with fault fix-up, the stub's code, the decoding of faults.

pub(crate) mod copy;
