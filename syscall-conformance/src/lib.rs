//! The differential runner: each case natively and in the sandbox, verdicts and outputs compared.
//!
//! The cases are in the guest program (`guest.rs`, `cases/`), which this library builds, starts
//! and reads. A case passes when it passes natively and does the same in the sandbox.

pub mod build;
pub mod compare;
pub mod place;
pub mod platforms;
