//! What a ptrace stop means in terms of the processor: which way a system call was entered, what a
//! faulting instruction tried, which exception it was.
//!
//! ptrace gives `si_addr` and `si_code` but not the page fault's error code, so the access is
//! derived from the instruction. The instruction's bytes come from the guest and may change; a
//! wrong answer makes the Sentry judge the fault wrongly for the guest that lied, no more.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, InstructionInfoFactory};
use iced_x86::{OpAccess, Register, UsedMemory};

use super::stub::USER_CS;
use crate::{Exception, Prot, Registers};

/// Longest instruction of the architecture.
pub(crate) const INSTRUCTION_MAX: usize = 15;

// Vectors (Intel SDM volume 3, table 6-1).
const VECTOR_DE: u64 = 0;
pub(crate) const VECTOR_DB: u64 = 1;
const VECTOR_BP: u64 = 3;
pub(crate) const VECTOR_UD: u64 = 6;
const VECTOR_SS: u64 = 12;
pub(crate) const VECTOR_GP: u64 = 13;
pub(crate) const VECTOR_PF: u64 = 14;
const VECTOR_MF: u64 = 16;
const VECTOR_AC: u64 = 17;
const VECTOR_XM: u64 = 19;

/// `si_code` of a signal without details (`SI_KERNEL`).
pub(crate) const SI_KERNEL: i32 = 0x80;

/// `si_code` of SIGFPE for an integer division.
const FPE_INTDIV: i32 = 1;
/// `si_code` of SIGFPE for a quotient that does not fit.
const FPE_INTOVF: i32 = 2;

/// Whether a system-call stop can only come from the 64-bit `syscall` instruction. It leaves its
/// return address in rcx and the flags in r11. Where this says no, the host is asked; where
/// an `int 0x80` imitates it, it is taken as the `syscall` that it looks like.
pub(crate) fn is_plain_syscall(regs: &Registers) -> bool {
    regs.cs == USER_CS && regs.rcx == regs.rip && regs.r11 == regs.eflags
}

/// A 32-bit system call, by whichever instruction. There are none: what a 64-bit Linux without
/// `CONFIG_IA32_EMULATION` does is a general protection fault at the instruction.
pub(crate) fn refuse_compat_syscall(regs: &mut Registers) -> Exception {
    // `int 0x80`, `sysenter` and `syscall` are two bytes long.
    if regs.cs == USER_CS {
        regs.rip = regs.rip.wrapping_sub(2);
    }
    regs.rax = regs.orig_rax;
    regs.orig_rax = u64::MAX;
    // The error code names the gate in the interrupt descriptor table.
    Exception {
        signo: libc::SIGSEGV,
        code: SI_KERNEL,
        addr: 0,
        trapno: VECTOR_GP,
        err: 0x80 * 8 + 2,
    }
}

/// What comes of going on at an address that no code can have.
pub(crate) fn wild_jump() -> Exception {
    Exception { signo: libc::SIGSEGV, code: SI_KERNEL, addr: 0, trapno: VECTOR_GP, err: 0 }
}

/// What the instruction at `regs.rip`, whose bytes are `code` as far as they could be read, did at
/// `addr`.
pub(crate) fn access_of(regs: &Registers, code: &[u8], addr: u64) -> Prot {
    const READ: Prot = Prot { read: true, write: false, exec: false };
    const WRITE: Prot = Prot { read: false, write: true, exec: false };
    const EXEC: Prot = Prot { read: false, write: false, exec: true };

    let Some(instruction) = decode(regs, code) else { return EXEC };
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(&instruction);
    let mut accesses = (false, false);
    for memory in info.used_memory() {
        let kind = match memory.access() {
            OpAccess::Write
            | OpAccess::CondWrite
            | OpAccess::ReadWrite
            | OpAccess::ReadCondWrite => WRITE,
            OpAccess::Read | OpAccess::CondRead => READ,
            OpAccess::None | OpAccess::NoMemAccess => continue,
        };
        if covers(regs, memory, addr) {
            return kind;
        }
        accesses = (accesses.0 | kind.read, accesses.1 | kind.write);
    }
    // None fits: an instruction fetch, or an operand that cannot be computed from the general
    // registers (gather and scatter).
    let fetch = addr.wrapping_sub(regs.rip) < INSTRUCTION_MAX as u64;
    match accesses {
        _ if fetch => EXEC,
        (_, true) => WRITE,
        (true, false) => READ,
        (false, false) => EXEC,
    }
}

/// Whether the bytes hold a whole instruction. For 32-bit code this is a guess.
pub(crate) fn is_complete(code: &[u8]) -> bool {
    Decoder::new(64, code, DecoderOptions::NONE).decode().code() != Code::INVALID
}

fn decode(regs: &Registers, code: &[u8]) -> Option<Instruction> {
    let bits = if regs.cs == USER_CS { 64 } else { 32 };
    let mut decoder = Decoder::with_ip(bits, code, regs.rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    (instruction.code() != Code::INVALID).then_some(instruction)
}

/// Whether a memory operand includes the byte at `addr`.
fn covers(regs: &Registers, memory: &UsedMemory, addr: u64) -> bool {
    // Operands without a fixed size are XSAVE areas, which are a few pages at most.
    const UNKNOWN_SIZE: u64 = 12 << 10;
    let Some(start) = memory.virtual_address(0, |register, _, _| value_of(regs, register)) else {
        return false;
    };
    let size = match memory.memory_size().size() as u64 {
        0 => UNKNOWN_SIZE,
        size => size,
    };
    addr.wrapping_sub(start) < size
}

fn value_of(regs: &Registers, register: Register) -> Option<u64> {
    let value = match register.full_register() {
        Register::RAX => regs.rax,
        Register::RBX => regs.rbx,
        Register::RCX => regs.rcx,
        Register::RDX => regs.rdx,
        Register::RSI => regs.rsi,
        Register::RDI => regs.rdi,
        Register::RBP => regs.rbp,
        Register::RSP => regs.rsp,
        Register::R8 => regs.r8,
        Register::R9 => regs.r9,
        Register::R10 => regs.r10,
        Register::R11 => regs.r11,
        Register::R12 => regs.r12,
        Register::R13 => regs.r13,
        Register::R14 => regs.r14,
        Register::R15 => regs.r15,
        Register::FS => return Some(regs.fs_base),
        Register::GS => return Some(regs.gs_base),
        Register::ES | Register::CS | Register::SS | Register::DS => return Some(0),
        _ => return None,
    };
    Some(match register.size() {
        1 => value as u8 as u64,
        2 => value as u16 as u64,
        4 => value as u32 as u64,
        _ => value,
    })
}

/// The exception behind a signal that is not a page fault, with the vector and error code that the
/// signal frame shows. `code` holds the bytes at the instruction, as far as they could be read.
pub(crate) fn exception(
    regs: &Registers,
    signo: i32,
    si_code: i32,
    addr: u64,
    code: &[u8],
) -> Exception {
    let trapno = match (signo, si_code) {
        (libc::SIGFPE, FPE_INTDIV | FPE_INTOVF) => VECTOR_DE,
        (libc::SIGFPE, _) if is_x87(regs, code) => VECTOR_MF,
        (libc::SIGFPE, _) => VECTOR_XM,
        (libc::SIGTRAP, SI_KERNEL | libc::TRAP_BRKPT) => VECTOR_BP,
        (libc::SIGTRAP, _) => VECTOR_DB,
        (libc::SIGILL, _) => VECTOR_UD,
        (libc::SIGBUS, libc::BUS_ADRALN) => VECTOR_AC,
        (libc::SIGBUS, SI_KERNEL) => VECTOR_SS,
        (libc::SIGSEGV, SI_KERNEL) => VECTOR_GP,
        _ => VECTOR_PF,
    };
    let err = if trapno == VECTOR_GP { gate_error(regs, code) } else { 0 };
    Exception { signo, code: si_code, addr, trapno, err }
}

/// The error code of a general protection fault: a software interrupt names its gate.
fn gate_error(regs: &Registers, code: &[u8]) -> u64 {
    match decode(regs, code) {
        Some(i) if i.code() == Code::Int_imm8 => u64::from(i.immediate8()) * 8 + 2,
        _ => 0,
    }
}

/// Whether the instruction belongs to the x87, whose exceptions have a vector of their own.
fn is_x87(regs: &Registers, code: &[u8]) -> bool {
    use iced_x86::CpuidFeature;
    decode(regs, code).is_some_and(|i| {
        i.code() == Code::Wait
            || i.cpuid_features().iter().any(|f| {
                matches!(f, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387)
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIP: u64 = 0x40_0000;

    fn regs() -> Registers {
        Registers {
            rip: RIP,
            cs: USER_CS,
            rax: 0x1000,
            rbx: 0x2000,
            rcx: 8,
            rsi: 0x5000,
            rdi: 0x6000,
            rsp: 0x8000,
            fs_base: 0x9000,
            ..Registers::default()
        }
    }

    #[track_caller]
    fn check(code: &[u8], addr: u64, expected: &str) {
        let got = access_of(&regs(), code, addr);
        let got = match (got.read, got.write, got.exec) {
            (true, false, false) => "read",
            (false, true, false) => "write",
            (false, false, true) => "exec",
            _ => "several",
        };
        assert_eq!(got, expected, "{code:x?} at {addr:#x}");
    }

    #[test]
    fn accesses_are_told_apart() {
        check(&[0x48, 0x8b, 0x00], 0x1000, "read"); // mov rax, [rax]
        check(&[0x48, 0x8b, 0x00], 0x1007, "read"); // ... its last byte
        check(&[0x48, 0x89, 0x03], 0x2000, "write"); // mov [rbx], rax
        check(&[0x48, 0x01, 0x03], 0x2000, "write"); // add [rbx], rax
        check(&[0xf0, 0x48, 0x0f, 0xb1, 0x0b], 0x2000, "write"); // lock cmpxchg [rbx], rcx
        check(&[0x48, 0x3b, 0x03], 0x2000, "read"); // cmp rax, [rbx]
        check(&[0xf3, 0xa4], 0x5000, "read"); // rep movsb
        check(&[0xf3, 0xa4], 0x6000, "write");
        check(&[0xf3, 0x48, 0xab], 0x6000, "write"); // rep stosq
        check(&[0x50], 0x7ff8, "write"); // push rax
        check(&[0xff, 0x33], 0x2000, "read"); // push [rbx]
        check(&[0xff, 0x33], 0x7ff8, "write");
        check(&[0x58], 0x8000, "read"); // pop rax
        check(&[0x8f, 0x03], 0x8000, "read"); // pop [rbx]
        check(&[0x8f, 0x03], 0x2000, "write");
        check(&[0xe8, 0, 0, 0, 0], 0x7ff8, "write"); // call
        check(&[0xff, 0x13], 0x2000, "read"); // call [rbx]
        check(&[0xff, 0x13], 0x7ff8, "write");
        check(&[0xc3], 0x8000, "read"); // ret
        check(&[0x64, 0x48, 0x8b, 0x04, 0x25, 8, 0, 0, 0], 0x9008, "read"); // mov rax, fs:[8]
        check(&[0x64, 0x48, 0x89, 0x04, 0x25, 8, 0, 0, 0], 0x9008, "write");
        check(&[0xc5, 0xfe, 0x7f, 0x03], 0x201f, "write"); // vmovdqu [rbx], ymm0
        check(&[0x62, 0xf1, 0xfe, 0x48, 0x6f, 0x03], 0x203f, "read"); // vmovdqu64 zmm0, [rbx]
        check(&[0x0f, 0xae, 0x03], 0x21ff, "write"); // fxsave [rbx]
        check(&[0x0f, 0xae, 0x23], 0x2340, "write"); // xsave [rbx]
        check(&[0x0f, 0xae, 0x2b], 0x2340, "read"); // xrstor [rbx]
        // vpgatherdd zmm1{k1}, [rax + zmm2*4]: not computable, but it only reads.
        check(&[0x62, 0xf2, 0x7d, 0x49, 0x90, 0x0c, 0x90], 0x77_0000, "read");
        check(&[0x62, 0xf2, 0x7d, 0x49, 0xa0, 0x0c, 0x90], 0x77_0000, "write"); // scatter
    }

    #[test]
    fn fetches_are_recognised() {
        check(&[], RIP, "exec");
        check(&[0x48], RIP + 1, "exec");
        check(&[0x90], RIP, "exec");
        check(&[0x48, 0x8b, 0x00], RIP, "exec");
        // mov [rip - 7], rax writes to itself.
        check(&[0x48, 0x89, 0x05, 0xf9, 0xff, 0xff, 0xff], RIP, "write");
        check(&[0x06], 0x1234, "exec"); // No such instruction.
    }

    #[test]
    fn exceptions_get_their_vectors() {
        let r = regs();
        assert_eq!(exception(&r, libc::SIGFPE, FPE_INTDIV, RIP, &[0xf7, 0xf0]).trapno, 0);
        assert_eq!(exception(&r, libc::SIGFPE, 3, RIP, &[0xd9, 0xfa]).trapno, 16);
        assert_eq!(exception(&r, libc::SIGFPE, 3, RIP, &[0xf2, 0x0f, 0x5e, 0xc1]).trapno, 19);
        let int = exception(&r, libc::SIGSEGV, SI_KERNEL, 0, &[0xcd, 0x21]);
        assert_eq!((int.trapno, int.err), (13, 0x21 * 8 + 2));
        assert_eq!(exception(&r, libc::SIGSEGV, SI_KERNEL, 0, &[0xf4]).err, 0);
    }
}
