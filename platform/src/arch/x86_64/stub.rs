//! The code that runs in a stub process besides the guest's, and register sets that start it.
//!
//! The code is position-independent, uses no stack and writes no memory, so that it works in an
//! address space of which every writable byte belongs to the guest. It is copied into one page of
//! each stub. A guest that jumps into it executes its instructions under `PTRACE_SYSEMU`, like its
//! own: no host call comes of it.

use std::arch::global_asm;

use crate::Registers;

/// The file descriptor of the memory file in a stub.
pub(crate) const FD_MEMORY: u64 = 0;
/// The descriptor of the socket over which host files come.
pub(crate) const FD_DONATIONS: u64 = 1;
/// The descriptor of a pipe that reads end-of-file once the Sentry is gone.
pub(crate) const FD_LIFELINE: u64 = 2;
/// The descriptor of a pipe that the template closes when it is set up.
pub(crate) const FD_READY: u64 = 3;

global_asm!(
    ".pushsection .rodata.rsentry_stub, \"a\", @progbits",
    ".balign 64",
    ".globl rsentry_stub_start",
    ".hidden rsentry_stub_start",
    "rsentry_stub_start:",
    // A fresh template: tell the Sentry, then wait.
    ".globl rsentry_stub_ready",
    ".hidden rsentry_stub_ready",
    "rsentry_stub_ready:",
    "    mov edi, {ready}",
    "    mov eax, {close}",
    "    syscall",
    // Nothing to do: sleep until somebody seizes this thread; leave when the Sentry is gone.
    ".globl rsentry_stub_park",
    ".hidden rsentry_stub_park",
    "rsentry_stub_park:",
    "    mov edi, {lifeline}",
    "    xor esi, esi",
    "    mov edx, 1",
    "    mov eax, {read}",
    "    syscall",
    "    cmp eax, -{eintr}",
    "    je rsentry_stub_park",
    "    xor edi, edi",
    "    mov eax, {exit_group}",
    "    syscall",
    "    ud2",
    // One host call with the registers as they are.
    ".globl rsentry_stub_call",
    ".hidden rsentry_stub_call",
    "rsentry_stub_call:",
    "    syscall",
    "    int3",
    // A clone that makes a process: the child waits.
    ".globl rsentry_stub_fork",
    ".hidden rsentry_stub_fork",
    "rsentry_stub_fork:",
    "    syscall",
    "    test eax, eax",
    "    jz rsentry_stub_park",
    "    int3",
    // The host calls of the commands from rbx to rbp, stopping at the first that fails.
    ".globl rsentry_stub_batch",
    ".hidden rsentry_stub_batch",
    "rsentry_stub_batch:",
    "    cmp rbx, rbp",
    "    jae 2f",
    "    mov rax, [rbx]",
    "    mov rdi, [rbx + 8]",
    "    mov rsi, [rbx + 16]",
    "    mov rdx, [rbx + 24]",
    "    mov r10, [rbx + 32]",
    "    mov r8, [rbx + 40]",
    "    mov r9, [rbx + 48]",
    "    syscall",
    "    cmp rax, -4095",
    "    jae 2f",
    "    add rbx, {command}",
    "    jmp rsentry_stub_batch",
    "2:  int3",
    ".globl rsentry_stub_end",
    ".hidden rsentry_stub_end",
    "rsentry_stub_end:",
    ".popsection",
    ready = const FD_READY,
    close = const libc::SYS_close,
    lifeline = const FD_LIFELINE,
    read = const libc::SYS_read,
    eintr = const libc::EINTR,
    exit_group = const libc::SYS_exit_group,
    command = const size_of::<Command>(),
);

// SAFETY: labels in the code above; only their addresses are used.
unsafe extern "C" {
    static rsentry_stub_start: u8;
    static rsentry_stub_ready: u8;
    static rsentry_stub_park: u8;
    static rsentry_stub_call: u8;
    static rsentry_stub_fork: u8;
    static rsentry_stub_batch: u8;
    static rsentry_stub_end: u8;
}

/// A host call, as the stub reads it from its command page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, zerocopy::IntoBytes, zerocopy::Immutable)]
#[repr(C)]
pub(crate) struct Command {
    /// The call's number.
    pub(crate) nr: u64,
    /// Its arguments.
    pub(crate) args: [u64; 6],
    /// For the code that executes it.
    parameter: u64,
}

impl Command {
    pub(crate) fn new(nr: i64, args: [u64; 6]) -> Command {
        Command::with_parameter(nr, args, 0)
    }

    pub(crate) fn with_parameter(nr: i64, args: [u64; 6], parameter: u64) -> Command {
        Command { nr: nr as u64, args, parameter }
    }
}

/// The stub's code.
pub(crate) fn code() -> &'static [u8] {
    let start = &raw const rsentry_stub_start;
    let end = &raw const rsentry_stub_end;
    // SAFETY: both labels delimit the same read-only section.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

fn offset(label: *const u8) -> u64 {
    label as u64 - (&raw const rsentry_stub_start) as u64
}

/// Offset of the entry of a fresh template in the code.
pub(crate) fn ready_offset() -> u64 {
    offset(&raw const rsentry_stub_ready)
}

/// Registers of 64-bit user code at `rip`, everything else clean.
fn at(code: u64, label: *const u8) -> Registers {
    Registers {
        rip: code + offset(label),
        cs: USER_CS,
        ss: USER_SS,
        eflags: EFLAGS_CLEAN,
        // Not inside a system call: the host must restart nothing.
        orig_rax: u64::MAX,
        ..Registers::default()
    }
}

/// The 64-bit user code segment of Linux.
pub(crate) const USER_CS: u64 = 0x33;
/// The user data segment of Linux.
pub(crate) const USER_SS: u64 = 0x2b;
/// Interrupts on, and the bit that is always set.
const EFLAGS_CLEAN: u64 = 0x202;

/// Registers that put a thread to sleep in the stub whose code page is at `code`.
pub(crate) fn park(code: u64) -> Registers {
    at(code, &raw const rsentry_stub_park)
}

/// Registers for one host call, after which the thread stops at an `int3`.
pub(crate) fn call(code: u64, command: Command) -> Registers {
    with(at(code, &raw const rsentry_stub_call), command)
}

/// As [`call`] for a clone whose child goes on in a copy of the address space.
pub(crate) fn fork(code: u64, command: Command) -> Registers {
    with(at(code, &raw const rsentry_stub_fork), command)
}

fn with(regs: Registers, command: Command) -> Registers {
    let [rdi, rsi, rdx, r10, r8, r9] = command.args;
    Registers { rax: command.nr, rdi, rsi, rdx, r10, r8, r9, ..regs }
}

/// Registers for the commands in `start..end` of the stub's address space.
pub(crate) fn batch(code: u64, start: u64, end: u64) -> Registers {
    Registers { rbx: start, rbp: end, ..at(code, &raw const rsentry_stub_batch) }
}

/// Where a batch came to: the address of the command that failed, or the end; and what the last
/// host call returned.
pub(crate) fn batch_result(regs: &Registers) -> (u64, i64) {
    (regs.rbx, regs.rax as i64)
}

/// Whether a thread that ran stub code stopped at one of its `int3`s.
pub(crate) fn is_done(code: u64, regs: &Registers) -> bool {
    let bytes = self::code();
    regs.rip.checked_sub(code + 1).is_some_and(|at| bytes.get(at as usize) == Some(&0xcc))
}
