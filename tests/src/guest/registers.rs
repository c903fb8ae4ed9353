//! All of the processor's user registers at once, held across computation, calls and signals.
//!
//! The only module with assembly: compilers have no notion of what is checked here.

use std::arch::{asm, naked_asm};
use std::sync::OnceLock;

use crate::sys::Chance;

/// General registers, in this order: rax, rbx, rcx, rdx, rsi, rdi, rbp, r8 to r15.
const GENERAL: usize = 15;
/// Those that a system call may change: rax, rcx, r11.
const CALL_CHANGES: [usize; 3] = [0, 2, 10];

/// What the registers hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct State {
    /// zmm0 to zmm31; without AVX-512, the halves of the first 16 that are ymm0 to ymm15.
    vectors: [[u64; 8]; 32],
    /// k0 to k7.
    masks: [u64; 8],
    general: [u64; GENERAL],
    /// The 128 bytes below the stack pointer.
    red_zone: [u64; 16],
}

impl State {
    /// Every register different, and different for each seed.
    pub(crate) fn random(chance: &mut Chance) -> State {
        let mut state = State {
            vectors: [[0; 8]; 32],
            masks: [0; 8],
            general: [0; GENERAL],
            red_zone: [0; 16],
        };
        let wide = wide();
        for (at, vector) in state.vectors.iter_mut().enumerate() {
            let words = if wide {
                8
            } else if at < 16 {
                4
            } else {
                0
            };
            vector[..words].iter_mut().for_each(|word| *word = chance.next());
        }
        if wide {
            state.masks.iter_mut().for_each(|word| *word = chance.next());
        }
        state.general.iter_mut().for_each(|word| *word = chance.next());
        state.red_zone.iter_mut().for_each(|word| *word = chance.next());
        state
    }

    /// Names the first difference.
    #[track_caller]
    fn assert_same(&self, now: &State, what: &str) {
        for at in 0..32 {
            assert_eq!(self.vectors[at], now.vectors[at], "{what}: vector register {at}");
        }
        assert_eq!(self.masks, now.masks, "{what}: mask registers");
        assert_eq!(self.general, now.general, "{what}: general registers");
        assert_eq!(self.red_zone, now.red_zone, "{what}: below the stack pointer");
    }
}

/// Whether the processor, and the kernel for it, has AVX-512 with 64-bit masks.
fn wide() -> bool {
    static WIDE: OnceLock<bool> = OnceLock::new();
    *WIDE
        .get_or_init(|| is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"))
}

/// To be called before the first signal: handlers must not be the ones to find out.
pub(crate) fn find_out() {
    assert!(is_x86_feature_detected!("avx"), "a processor without AVX");
    let _ = wide();
}

/// Fills all registers, counts down from `rounds`, which is not 0, in memory, and looks at them.
#[track_caller]
pub(crate) fn compute(state: &State, rounds: u64) {
    let mut now = *state;
    let hold = if wide() { compute_512 } else { compute_256 };
    // SAFETY: both states are valid, and the processor has the registers.
    unsafe { hold(state, &mut now, rounds, 0) };
    state.assert_same(&now, "computing");
}

/// Fills all registers, calls getppid(2) `rounds` times, and looks at them and at the flags.
#[track_caller]
pub(crate) fn calls(state: &State, rounds: u64, parent: i32) {
    let mut now = *state;
    let parent = parent as u64;
    let hold = if wide() { calls_512 } else { calls_256 };
    // SAFETY: as above.
    let wrong = unsafe { hold(state, &mut now, rounds, parent) };
    assert_eq!(wrong & 1, 0, "getppid gave something else than {parent}");
    assert_eq!(wrong & 2, 0, "a call changed the flags");
    for at in CALL_CHANGES {
        now.general[at] = state.general[at];
    }
    state.assert_same(&now, "calling");
}

/// Changes all vector and mask registers; for handlers.
pub(crate) fn clobber() {
    if wide() {
        // SAFETY: the processor has the registers; all are declared or not used by compiled code,
        // which is built without AVX-512.
        unsafe {
            asm!(
                ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                "vpternlogd zmm\\i, zmm\\i, zmm\\i, 255",
                ".endr",
                ".irp i, 0,1,2,3,4,5,6,7",
                "kxnorq k\\i, k\\i, k\\i",
                ".endr",
                "vzeroupper",
                clobber_abi("C"),
                options(nostack),
            );
        }
    } else {
        // SAFETY: as above.
        unsafe {
            asm!(
                "vxorps xmm0, xmm0, xmm0",
                ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                "vcmpps ymm\\i, ymm0, ymm0, 15",
                ".endr",
                "vzeroupper",
                clobber_abi("C"),
                options(nostack),
            );
        }
    }
}

/// Whether zmm31 is zero, which compiled code leaves alone: handlers start with clean registers.
pub(crate) fn is_clean() -> bool {
    if !wide() {
        return true;
    }
    let bits: u32;
    // SAFETY: the processor has the registers.
    unsafe {
        asm!("vptestmq k1, zmm31, zmm31", "kmovb {bits:e}, k1", bits = out(reg) bits, out("k1") _, options(nostack, nomem));
    }
    bits == 0
}

/// The arithmetic flags that `calls` sets: CF, PF, AF, SF, OF.
const FLAGS: u32 = 0x895;
/// All arithmetic flags, ZF included, and DF.
const FLAGS_MASK: u32 = 0xcd5;

macro_rules! load {
    (512) => {
        ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        vmovdqu64 zmm\\i, [rdi + 64*\\i]
        .endr
        .irp i, 0,1,2,3,4,5,6,7
        kmovq k\\i, [rdi + 2048 + 8*\\i]
        .endr"
    };
    (256) => {
        ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        vmovdqu ymm\\i, [rdi + 64*\\i]
        .endr"
    };
}

macro_rules! store {
    (512) => {
        ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        vmovdqu64 [rdi + 64*\\i], zmm\\i
        .endr
        .irp i, 0,1,2,3,4,5,6,7
        kmovq [rdi + 2048 + 8*\\i], k\\i
        .endr"
    };
    (256) => {
        ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        vmovdqu [rdi + 64*\\i], ymm\\i
        .endr"
    };
}

/// `compute`: a counter on the stack is the only thing that changes.
macro_rules! compute_body {
    () => {
        "2: dec qword ptr [rsp]
        jnz 2b"
    };
}

/// `calls`: getppid until the counter is zero; what is wrong goes to [rsp + 24].
macro_rules! calls_body {
    () => {
        "2: mov r11d, {flags}
        lea rsp, [rsp - 128]
        push r11
        popfq
        lea rsp, [rsp + 128]
        mov eax, {call}
        syscall
        lea rsp, [rsp - 128]
        pushfq
        pop r11
        lea rsp, [rsp + 128]
        cmp rax, [rsp + 16]
        je 3f
        or qword ptr [rsp + 24], 1
        3: and r11d, {mask}
        cmp r11d, {flags}
        je 4f
        or qword ptr [rsp + 24], 2
        4: dec qword ptr [rsp]
        jnz 2b"
    };
}

/// `exceptions`: instructions that raise SIGILL, SIGTRAP and SIGFPE, until the counter is zero. The
/// handler skips the first and the last.
macro_rules! exceptions_body {
    () => {
        "2: ud2
        int3
        div byte ptr [rsp + 16]
        dec qword ptr [rsp]
        jnz 2b"
    };
}

/// `write`: one write to where r15 points.
macro_rules! write_body {
    () => {
        "add qword ptr [r15], 1"
    };
}

/// A function that fills the registers from its first argument, does `body`, and stores them to its
/// second. Its stack: the third argument, the second, the fourth, the result.
macro_rules! hold {
    ($name:ident, $width:tt, $body:ident $(, $operand:ident = $value:expr)*) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(from: *const State, to: *mut State, rounds: u64, expected: u64) -> u64 {
            naked_asm!(
                ".irp r, rbx,rbp,r12,r13,r14,r15",
                "push \\r",
                ".endr",
                "push 0",
                "push rcx",
                "push rsi",
                "push rdx",
                load!($width),
                ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                "mov rax, [rdi + {red} + 8*\\i]",
                "mov [rsp - 128 + 8*\\i], rax",
                ".endr",
                "mov rax, [rdi + {general}]",
                "mov rbx, [rdi + {general} + 8]",
                "mov rcx, [rdi + {general} + 16]",
                "mov rdx, [rdi + {general} + 24]",
                "mov rsi, [rdi + {general} + 32]",
                "mov rbp, [rdi + {general} + 48]",
                ".irp i, 8,9,10,11,12,13,14,15",
                "mov r\\i, [rdi + {general} + 8*\\i - 8]",
                ".endr",
                "mov rdi, [rdi + {general} + 40]",
                $body!(),
                "xchg rdi, [rsp + 8]",
                store!($width),
                "mov [rdi + {general}], rax",
                "mov [rdi + {general} + 8], rbx",
                "mov [rdi + {general} + 16], rcx",
                "mov [rdi + {general} + 24], rdx",
                "mov [rdi + {general} + 32], rsi",
                "mov [rdi + {general} + 48], rbp",
                ".irp i, 8,9,10,11,12,13,14,15",
                "mov [rdi + {general} + 8*\\i - 8], r\\i",
                ".endr",
                "mov rax, [rsp + 8]",
                "mov [rdi + {general} + 40], rax",
                ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                "mov rax, [rsp - 128 + 8*\\i]",
                "mov [rdi + {red} + 8*\\i], rax",
                ".endr",
                "vzeroupper",
                "add rsp, 24",
                "pop rax",
                ".irp r, r15,r14,r13,r12,rbp,rbx",
                "pop \\r",
                ".endr",
                "ret",
                general = const std::mem::offset_of!(State, general),
                red = const std::mem::offset_of!(State, red_zone),
                $($operand = const $value),*
            )
        }
    };
}

hold!(compute_512, 512, compute_body);
hold!(compute_256, 256, compute_body);
hold!(calls_512, 512, calls_body, flags = FLAGS, mask = FLAGS_MASK, call = libc::SYS_getppid);
hold!(calls_256, 256, calls_body, flags = FLAGS, mask = FLAGS_MASK, call = libc::SYS_getppid);

hold!(exceptions_512, 512, exceptions_body);
hold!(exceptions_256, 256, exceptions_body);
hold!(write_512, 512, write_body);
hold!(write_256, 256, write_body);

/// Fills all registers, executes `ud2`, `int3` and a division by zero `rounds` times, and looks at
/// them. Handlers must skip [`UD2_LEN`] and [`DIV_LEN`] bytes.
#[track_caller]
pub(crate) fn exceptions(state: &State, rounds: u64) {
    let mut now = *state;
    let hold = if wide() { exceptions_512 } else { exceptions_256 };
    // SAFETY: both states are valid, and the processor has the registers.
    unsafe { hold(state, &mut now, rounds, 0) };
    state.assert_same(&now, "raising exceptions");
}

/// Length of `ud2`.
pub(crate) const UD2_LEN: i64 = 2;
/// Length of the division in [`exceptions`].
pub(crate) const DIV_LEN: i64 = 4;

/// Fills all registers and adds 1 to the word at `at`, which a handler may have to make writable.
#[track_caller]
pub(crate) fn increment(state: &State, at: usize) {
    let mut from = *state;
    from.general[14] = at as u64;
    let mut now = from;
    let hold = if wide() { write_512 } else { write_256 };
    // SAFETY: as above; the word is the caller's.
    unsafe { hold(&from, &mut now, 0, 0) };
    from.assert_same(&now, "writing");
}

/// getppid(2) with this stack pointer, which the call has no use for.
pub(crate) fn call_with_stack_at(stack: u64) -> i64 {
    let result: i64;
    // SAFETY: the stack pointer is put back; a signal in between is the caller's business.
    unsafe {
        asm!(
            "mov r15, rsp",
            "mov rsp, {stack}",
            "syscall",
            "mov rsp, r15",
            stack = in(reg) stack,
            inlateout("rax") libc::SYS_getppid => result,
            out("rcx") _,
            out("r11") _,
            out("r15") _,
        );
    }
    result
}

/// Calls `rounds` times with alternating stack pointers, and computes with them in between.
pub(crate) fn spin_with_stack_at(stack: u64, rounds: u64) {
    // SAFETY: as above.
    unsafe {
        asm!(
            "mov r15, rsp",
            "mov rsp, {stack}",
            "2: dec {rounds}",
            "jnz 2b",
            "mov rsp, r15",
            stack = in(reg) stack,
            rounds = inout(reg) rounds => _,
            out("r15") _,
        );
    }
}

/// The word at the base of GS.
pub(crate) fn gs_word() -> u64 {
    let word;
    // SAFETY: the caller has set the base to a word of its own.
    unsafe { asm!("mov {}, gs:[0]", out(reg) word, options(nostack, readonly)) };
    word
}

/// Sets the base of GS without the kernel. The processor must have FSGSBASE, and the kernel say so.
pub(crate) fn write_gs_base(base: u64) {
    // SAFETY: nothing else in the program uses GS.
    unsafe { asm!("wrgsbase {}", in(reg) base, options(nostack)) };
}

/// The time-stamp counter.
pub(crate) fn time_stamp() -> u64 {
    // SAFETY: the caller handles the signal that it may raise.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Length of the instruction in [`load_from`] that loads.
pub(crate) const LOAD_LEN: i64 = 3;

/// Loads a word; a handler may skip the instruction.
pub(crate) fn load_from(at: usize) {
    // SAFETY: the caller handles the signal that it may raise.
    unsafe { asm!("mov rax, [rdi]", in("rdi") at, out("rax") _, options(nostack)) };
}

/// Calls code that makes the system call `number`, without arguments, and returns.
pub(crate) fn call_code(at: usize, number: i64) -> i64 {
    let result: i64;
    // SAFETY: the caller has put code there that changes what a system call changes, and rdx.
    unsafe {
        asm!(
            "call {at}",
            at = in(reg) at,
            inlateout("rax") number => result,
            in("rdi") 0,
            out("rdx") _,
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}
