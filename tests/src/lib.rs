//! End-to-end tests: real programs, escapes, limits.
