//! rsentry as a library.
