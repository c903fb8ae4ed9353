//! The machine code of the attacks: the one place of these guest programs with assembly.
//!
//! It is guest code, run inside the sandbox only; nothing of it is part of rsentry.

use std::arch::{asm, global_asm};

/// Registers to jump somewhere with. The order is the one in which [`attack_enter`] pops them.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Regs {
    pub rflags: u64,
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub rsp: u64,
}

impl Regs {
    /// The same value in all general registers but the stack pointer.
    pub fn all(value: u64, rsp: u64) -> Regs {
        Regs {
            rflags: 0x202,
            r15: value,
            r14: value,
            r13: value,
            r12: value,
            r11: value,
            r10: value,
            r9: value,
            r8: value,
            rbp: value,
            rdi: value,
            rsi: value,
            rdx: value,
            rcx: value,
            rbx: value,
            rax: value,
            rsp,
        }
    }

    /// With a system call's number and arguments.
    pub fn call(self, nr: u64, args: [u64; 6]) -> Regs {
        let [rdi, rsi, rdx, r10, r8, r9] = args;
        Regs { rax: nr, rdi, rsi, rdx, r10, r8, r9, ..self }
    }
}

global_asm!(
    // attack_enter(registers, where the stack pointer is kept): comes back by attack_resume only.
    ".globl attack_enter",
    "attack_enter:",
    "    push rbp",
    "    push rbx",
    "    push r12",
    "    push r13",
    "    push r14",
    "    push r15",
    "    sub rsp, 8",
    "    stmxcsr [rsp]",
    "    fnstcw [rsp + 4]",
    "    mov [rsi], rsp",
    "    mov rsp, rdi",
    "    popfq",
    "    pop r15",
    "    pop r14",
    "    pop r13",
    "    pop r12",
    "    pop r11",
    "    pop r10",
    "    pop r9",
    "    pop r8",
    "    pop rbp",
    "    pop rdi",
    "    pop rsi",
    "    pop rdx",
    "    pop rcx",
    "    pop rbx",
    "    pop rax",
    "    pop rsp",
    "    jmp [rip + attack_target]",
    // Where the signal handler goes back to, with the kept stack pointer.
    ".globl attack_resume",
    "attack_resume:",
    "    cld",
    "    ldmxcsr [rsp]",
    "    fninit",
    "    fldcw [rsp + 4]",
    "    add rsp, 8",
    "    pop r15",
    "    pop r14",
    "    pop r13",
    "    pop r12",
    "    pop rbx",
    "    pop rbp",
    "    ret",
    // What return addresses on the attack's stack point at.
    ".globl attack_landed",
    "attack_landed:",
    "    ud2",
    // Reads eight bytes at rdi into rsi. A fault makes it return 0.
    ".globl attack_load",
    "attack_load:",
    "    mov rax, [rdi]",
    "    mov [rsi], rax",
    "    mov eax, 1",
    "    ret",
    // Writes eight bytes from rsi to rdi. The same.
    ".globl attack_store",
    "attack_store:",
    "    mov [rdi], rsi",
    "    mov eax, 1",
    "    ret",
    // Copies rdx bytes from rsi to rdi. The same.
    ".globl attack_copy",
    "attack_copy:",
    "    mov rcx, rdx",
    ".globl attack_copying",
    "attack_copying:",
    "    rep movsb",
    "    mov eax, 1",
    "    ret",
    ".globl attack_failed",
    "attack_failed:",
    "    xor eax, eax",
    "    ret",
    // Spins in one instruction.
    ".globl attack_spin",
    "attack_spin:",
    "    jmp attack_spin",
    // Spins through code at rdi, which must return: call it for ever.
    ".globl attack_pingpong",
    "attack_pingpong:",
    "    mov rbx, rdi",
    "2:  call rbx",
    "    jmp 2b",
    // Pages of call sites: the sequences that `patch` knows, one every 64 bytes; at 2048 a getpid
    // that returns; from the second page on many of those.
    ".balign 4096",
    ".globl attack_sites",
    "attack_sites:",
    "    mov eax, 39",
    "    syscall",
    "    ud2",
    ".balign 64",
    "    mov rax, 39",
    "    syscall",
    "    ud2",
    ".balign 64",
    "    xor eax, eax",
    "    syscall",
    "    ud2",
    ".balign 64",
    "    syscall",
    "    cmp rax, -4095",
    "    .byte 0x73, 0",
    "    ud2",
    ".balign 64",
    "    mov r10, rcx",
    "    mov eax, 39",
    "    syscall",
    "    cmp eax, -4096",
    "    ud2",
    ".balign 64",
    "    mov rax, rdi",
    "    mov rdi, rsi",
    "    mov rsi, rdx",
    "    syscall",
    "    ud2",
    ".balign 2048",
    "    mov eax, 39",
    "    syscall",
    "    ret",
    ".balign 4096",
    ".rept 8192",
    "    mov eax, 39",
    "    syscall",
    "    ret",
    ".endr",
    ".pushsection .data",
    ".balign 8",
    ".globl attack_target",
    "attack_target: .quad 0",
    ".popsection",
);

unsafe extern "C" {
    pub fn attack_enter(regs: *const Regs, rsp: *mut u64);
    pub fn attack_resume();
    pub fn attack_landed();
    pub fn attack_load(addr: u64, value: *mut u64) -> u32;
    pub fn attack_store(addr: u64, value: u64) -> u32;
    pub fn attack_copy(to: *mut u8, from: u64, len: usize) -> u32;
    pub fn attack_copying();
    pub fn attack_failed();
    pub fn attack_spin();
    pub fn attack_pingpong();
    pub fn attack_sites();
    pub static mut attack_target: u64;
}

/// A system call by an instruction of our own.
pub fn syscall(nr: u64, args: [u64; 6]) -> i64 {
    let [rdi, rsi, rdx, r10, r8, r9] = args;
    let result: i64;
    // SAFETY: an attack may do anything to its own process.
    unsafe {
        asm!("syscall", inlateout("rax") nr => result, in("rdi") rdi, in("rsi") rsi,
            in("rdx") rdx, in("r10") r10, in("r8") r8, in("r9") r9,
            out("rcx") _, out("r11") _);
    }
    result
}

/// A system call with these flags set, and the flags after it.
pub fn syscall_with_flags(nr: u64, flags: u64) -> (i64, u64) {
    let (result, after): (i64, u64);
    // SAFETY: the flags are put back before the compiler's code goes on.
    unsafe {
        asm!("push {flags}", "popfq", "syscall", "pushfq", "pop {flags}", "push 0x202", "popfq",
            flags = inout(reg) flags => after, inlateout("rax") nr => result,
            out("rcx") _, out("r11") _);
    }
    (result, after)
}

/// `mov $nr, %eax; syscall`, executed in a loop at one place: what a patcher would patch.
pub fn getpid_loop(times: u64) -> u64 {
    let (mut sum, mut left) = (0, times);
    while left > 0 {
        let pid: u64;
        // SAFETY: getpid.
        unsafe {
            asm!("mov eax, 39", "syscall", out("rax") pid, out("rcx") _, out("r11") _);
        }
        sum += pid;
        left -= 1;
    }
    sum
}

pub fn fs_base() -> u64 {
    let base;
    // SAFETY: reads a register. All processors with AVX2 have the instruction.
    unsafe { asm!("rdfsbase {}", out(reg) base, options(nomem, nostack)) };
    base
}

pub fn gs_base() -> u64 {
    let base;
    // SAFETY: as above.
    unsafe { asm!("rdgsbase {}", out(reg) base, options(nomem, nostack)) };
    base
}

/// # Safety
/// Thread-local variables are found by it.
pub unsafe fn set_fs_base(base: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("wrfsbase {}", in(reg) base, options(nostack)) };
}

pub fn set_gs_base(base: u64) {
    // SAFETY: nothing in these programs uses GS.
    unsafe { asm!("wrgsbase {}", in(reg) base, options(nostack)) };
}

/// `getpid` between setting the GS base and reading it back, all in one piece.
pub fn syscall_with_gs_base(nr: u64, base: u64) -> (i64, u64) {
    let (result, after): (i64, u64);
    // SAFETY: GS is not used here, and put back.
    unsafe {
        asm!("rdgsbase {old}", "wrgsbase {base}", "syscall", "rdgsbase {base}", "wrgsbase {old}",
            old = out(reg) _, base = inout(reg) base => after, inlateout("rax") nr => result,
            out("rcx") _, out("r11") _);
    }
    (result, after)
}

/// The same for the FS base.
pub fn syscall_with_fs_base(nr: u64, base: u64) -> (i64, u64) {
    let (result, after): (i64, u64);
    // SAFETY: the old base is put back before the compiler's code goes on.
    unsafe {
        asm!("rdfsbase {old}", "wrfsbase {base}", "syscall", "rdfsbase {base}", "wrfsbase {old}",
            old = out(reg) _, base = inout(reg) base => after, inlateout("rax") nr => result,
            out("rcx") _, out("r11") _);
    }
    (result, after)
}

/// Loads a selector into DS and ES, makes a call, and returns its result and DS; puts zero back.
pub fn syscall_with_data_segment(nr: u64, selector: u16) -> (i64, u16) {
    let (result, after): (i64, u32);
    // SAFETY: 64-bit code does not use these segments.
    unsafe {
        asm!("mov ds, {sel:e}", "mov es, {sel:e}", "syscall", "mov {sel:e}, ds",
            "mov ds, {zero:e}", "mov es, {zero:e}",
            sel = inout(reg) u32::from(selector) => after, zero = in(reg) 0,
            inlateout("rax") nr => result, out("rcx") _, out("r11") _);
    }
    (result, after as u16)
}

/// Loads a selector into GS (which may clear its base), makes a call, puts selector and base back.
pub fn syscall_with_gs_selector(nr: u64, selector: u16) -> i64 {
    let result;
    // SAFETY: GS is not used here, and put back.
    unsafe {
        asm!("rdgsbase {old}", "mov gs, {sel:e}", "syscall", "mov gs, {zero:e}", "wrgsbase {old}",
            old = out(reg) _, sel = in(reg) u32::from(selector), zero = in(reg) 0,
            inlateout("rax") nr => result, out("rcx") _, out("r11") _);
    }
    result
}

/// A call with an unmasked floating-point exception pending.
pub fn syscall_with_pending_fpu_exception(nr: u64) -> i64 {
    let result;
    // SAFETY: the x87 is set up anew afterwards.
    unsafe {
        asm!("push 0x37b", "fldcw [rsp]", "fldz", "fld1", "fdiv st(0), st(1)", "syscall",
            "fninit", "add rsp, 8", inlateout("rax") nr => result,
            out("rcx") _, out("r11") _);
    }
    result
}

/// A call with the canary in all vector registers, so that it is in whatever keeps them.
pub fn syscall_with_vectors(nr: u64, arg: u64, vectors: &[u64; 32]) -> i64 {
    let result;
    // SAFETY: reads 16 times 16 bytes.
    unsafe {
        asm!("movdqu xmm0, [{v}]", "movdqu xmm1, [{v} + 16]", "movdqu xmm2, [{v} + 32]",
            "movdqu xmm3, [{v} + 48]", "movdqu xmm4, [{v} + 64]", "movdqu xmm5, [{v} + 80]",
            "movdqu xmm6, [{v} + 96]", "movdqu xmm7, [{v} + 112]", "movdqu xmm8, [{v} + 128]",
            "movdqu xmm9, [{v} + 144]", "movdqu xmm10, [{v} + 160]", "movdqu xmm11, [{v} + 176]",
            "movdqu xmm12, [{v} + 192]", "movdqu xmm13, [{v} + 208]", "movdqu xmm14, [{v} + 224]",
            "movdqu xmm15, [{v} + 240]", "syscall", v = in(reg) vectors.as_ptr(),
            inlateout("rax") nr => result, in("rdi") arg, in("rsi") 0, in("rdx") 0,
            out("rcx") _, out("r11") _, out("xmm0") _, out("xmm1") _, out("xmm2") _,
            out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _,
            out("xmm13") _, out("xmm14") _, out("xmm15") _);
    }
    result
}
