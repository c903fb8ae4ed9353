//! The routines that access guest-shared memory, and the table that says where they continue when
//! an access faults.
//!
//! A fault in one of them is not an error: the SIGSEGV/SIGBUS handler looks the instruction up
//! with [`fixup`] and continues at the address found there. The routines use no stack besides the
//! return address, so that the fix-up need not unwind anything.

use std::arch::global_asm;

// `rsentry_copy(dst, src, len) -> bytes copied`: short copies are plain moves; when one of them
// faults, the copy starts over with `rep movsb`, whose rcx says exactly how far it came.
global_asm!(
    ".pushsection .text.rsentry_copy, \"ax\", @progbits",
    ".balign 64",
    ".globl rsentry_copy",
    ".hidden rsentry_copy",
    "rsentry_copy:",
    "    mov rax, rdx",
    "    cmp rdx, 32",
    "    ja 32f",
    "    cmp rdx, 16",
    "    jae 16f",
    "    cmp rdx, 8",
    "    jae 8f",
    "    cmp rdx, 4",
    "    jae 4f",
    "    jmp 20f",
    "16: movups xmm0, [rsi]",
    "    movups xmm1, [rsi + rdx - 16]",
    "    movups [rdi], xmm0",
    "    movups [rdi + rdx - 16], xmm1",
    "    ret",
    "32: cmp rdx, 64",
    "    ja 20f",
    "    movups xmm0, [rsi]",
    "    movups xmm1, [rsi + 16]",
    "    movups xmm2, [rsi + rdx - 32]",
    "    movups xmm3, [rsi + rdx - 16]",
    "    movups [rdi], xmm0",
    "    movups [rdi + 16], xmm1",
    "    movups [rdi + rdx - 32], xmm2",
    "    movups [rdi + rdx - 16], xmm3",
    "    ret",
    "8:  mov rcx, [rsi]",
    "    mov r8, [rsi + rdx - 8]",
    "    mov [rdi], rcx",
    "    mov [rdi + rdx - 8], r8",
    "    ret",
    "4:  mov ecx, [rsi]",
    "    mov r8d, [rsi + rdx - 4]",
    "    mov [rdi], ecx",
    "    mov [rdi + rdx - 4], r8d",
    "    ret",
    ".globl rsentry_copy_slow",
    ".hidden rsentry_copy_slow",
    "rsentry_copy_slow:",
    "20: mov rcx, rdx",
    ".globl rsentry_copy_rep",
    ".hidden rsentry_copy_rep",
    "rsentry_copy_rep:",
    "    rep movsb",
    "    ret",
    ".globl rsentry_copy_fixup",
    ".hidden rsentry_copy_fixup",
    "rsentry_copy_fixup:",
    "    sub rax, rcx",
    "    ret",
    // `rsentry_zero(dst, len) -> bytes cleared`.
    ".globl rsentry_zero",
    ".hidden rsentry_zero",
    "rsentry_zero:",
    "    mov rcx, rsi",
    "    mov r8, rsi",
    "    xor eax, eax",
    ".globl rsentry_zero_rep",
    ".hidden rsentry_zero_rep",
    "rsentry_zero_rep:",
    "    rep stosb",
    "    mov rax, r8",
    "    ret",
    ".globl rsentry_zero_fixup",
    ".hidden rsentry_zero_fixup",
    "rsentry_zero_fixup:",
    "    mov rax, r8",
    "    sub rax, rcx",
    "    ret",
    // The word accesses return the value in eax/rax and 1 in edx, or 0 in edx after a fault.
    ".globl rsentry_word",
    ".hidden rsentry_word",
    "rsentry_word:",
    ".globl rsentry_load_u32",
    ".hidden rsentry_load_u32",
    "rsentry_load_u32:",
    "    mov eax, [rdi]",
    "    mov edx, 1",
    "    ret",
    ".globl rsentry_load_u64",
    ".hidden rsentry_load_u64",
    "rsentry_load_u64:",
    "    mov rax, [rdi]",
    "    mov edx, 1",
    "    ret",
    // A store is an exchange: sequentially consistent, as the kernel's futex operations need it.
    ".globl rsentry_swap_u32",
    ".hidden rsentry_swap_u32",
    "rsentry_swap_u32:",
    "    mov eax, esi",
    "    xchg [rdi], eax",
    "    mov edx, 1",
    "    ret",
    ".globl rsentry_swap_u64",
    ".hidden rsentry_swap_u64",
    "rsentry_swap_u64:",
    "    mov rax, rsi",
    "    xchg [rdi], rax",
    "    mov edx, 1",
    "    ret",
    // `(at, expected, new) -> what was there`.
    ".globl rsentry_cmpxchg_u32",
    ".hidden rsentry_cmpxchg_u32",
    "rsentry_cmpxchg_u32:",
    "    mov eax, esi",
    "    lock cmpxchg [rdi], edx",
    "    mov edx, 1",
    "    ret",
    ".globl rsentry_cmpxchg_u64",
    ".hidden rsentry_cmpxchg_u64",
    "rsentry_cmpxchg_u64:",
    "    mov rax, rsi",
    "    lock cmpxchg [rdi], rdx",
    "    mov edx, 1",
    "    ret",
    ".globl rsentry_word_end",
    ".hidden rsentry_word_end",
    "rsentry_word_end:",
    ".globl rsentry_word_fixup",
    ".hidden rsentry_word_fixup",
    "rsentry_word_fixup:",
    "    xor edx, edx",
    "    ret",
    ".popsection",
);

/// What a word access returns: the value, and whether the access went well (in rax and rdx).
#[repr(C)]
pub(crate) struct Word {
    pub(crate) value: u64,
    pub(crate) ok: u64,
}

// SAFETY: declared as the routines above are written; `Word` comes back in rax:rdx.
unsafe extern "C" {
    pub(crate) fn rsentry_copy(dst: *mut u8, src: *const u8, len: usize) -> usize;
    pub(crate) fn rsentry_zero(dst: *mut u8, len: usize) -> usize;
    pub(crate) fn rsentry_load_u32(at: *const u8) -> Word;
    pub(crate) fn rsentry_load_u64(at: *const u8) -> Word;
    pub(crate) fn rsentry_swap_u32(at: *mut u8, value: u32) -> Word;
    pub(crate) fn rsentry_swap_u64(at: *mut u8, value: u64) -> Word;
    pub(crate) fn rsentry_cmpxchg_u32(at: *mut u8, expected: u32, new: u32) -> Word;
    pub(crate) fn rsentry_cmpxchg_u64(at: *mut u8, expected: u64, new: u64) -> Word;
    fn rsentry_copy_slow();
    fn rsentry_copy_rep();
    fn rsentry_copy_fixup();
    fn rsentry_zero_rep();
    fn rsentry_zero_fixup();
    fn rsentry_word();
    fn rsentry_word_end();
    fn rsentry_word_fixup();
}

/// Where to continue after a fault of the instruction at `rip`, if it is one of ours.
fn fixup(rip: usize) -> Option<usize> {
    let at = |f: unsafe extern "C" fn()| f as usize;
    if rip == at(rsentry_copy_rep) {
        Some(at(rsentry_copy_fixup))
    } else if rip == at(rsentry_zero_rep) {
        Some(at(rsentry_zero_fixup))
    } else if (rsentry_copy as *const () as usize..at(rsentry_copy_slow)).contains(&rip) {
        Some(at(rsentry_copy_slow))
    } else if (at(rsentry_word)..at(rsentry_word_end)).contains(&rip) {
        Some(at(rsentry_word_fixup))
    } else {
        None
    }
}

/// Redirects the interrupted code to its fix-up. False if it is none of the routines here.
///
/// # Safety
/// `context` must be what the kernel passed to a signal handler.
pub(crate) unsafe fn apply_fixup(context: *mut libc::c_void) -> bool {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the caller passes the kernel's ucontext, which is ours to change in the handler.
    let rip = unsafe { &mut (*context).uc_mcontext.gregs[libc::REG_RIP as usize] };
    match fixup(*rip as usize) {
        Some(target) => {
            *rip = target as i64;
            true
        }
        None => false,
    }
}

/// The interrupted code's instruction pointer, for a report.
///
/// # Safety
/// As [`apply_fixup`].
pub(crate) unsafe fn fault_rip(context: *mut libc::c_void) -> u64 {
    // SAFETY: as in `apply_fixup`.
    unsafe {
        (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] as u64
    }
}
