//! The code that runs in the stubs of the `notify` platform besides the guest's.
//!
//! It is copied into one page of each stub, and followed there by pages whose content the Rust side
//! prepares ([`CONSTANTS`], [`COMMANDS`], [`SCRATCH`] give their distance). A guest can jump to any
//! byte of it with any registers. So its host calls are only those that the filters let through
//! (see [`super::doorbell_filter`]), and what it reads from the thread's block is the guest's own
//! risk: the block decides nothing but where the guest itself goes on.
//!
//! # Who runs here
//! * the template, from `template`: executes orders that come over a socket. It has no guest.
//! * the *cloner* of each stub process, from `stub`: makes threads as the birth record on the
//!   command page says. Only it may.
//! * the *executor*, from `executor`: maps and unmaps as the command page says.
//! * guest threads: from `birth` to their first doorbell; from `signal` when the host delivers one;
//!   from `entry` when a patched call site leads here.
//!
//! # The block
//! A guest thread's block is 2^15 bytes, aligned; its first page is [`Control`], at the end is the
//! signal stack. While the guest does not use GS for itself, the GS base points at the block.

use std::arch::global_asm;
use std::mem::offset_of;

use super::stub::{Command, FD_MEMORY, FD_READY};
use crate::stub::message::{CONTROL_LEN, CONTROL_USED};
use crate::{PAGE_SIZE, Registers};

/// The descriptor of the socket over which the template gets its orders.
pub(crate) const FD_ORDERS: u64 = 1;
/// The descriptor of the socket over which listeners go to the Sentry.
pub(crate) const FD_BIRTHS: u64 = 2;

/// The system call that no Linux has: it reaches nobody but the listener of the calling thread.
/// Its arguments: 0 (there is a request in the block) or [`RING_KICK`], and the signal frame.
pub(crate) const DOORBELL: u32 = 0x2b0a_7d01;
/// First argument of a doorbell: SIGURG came. The second one is the address of the signal frame.
pub(crate) const RING_KICK: u64 = 1;

/// Answer to a doorbell: there is a reply in the block.
pub(crate) const ANSWER_REPLY: i64 = 0;

/// `Call::state`: the guest asks something and spins.
pub(crate) const STATE_REQUEST: u32 = 1;
/// `Call::state`: the guest asks something and rings or rang.
pub(crate) const STATE_ASLEEP: u32 = 2;
/// `Call::state`: the Sentry has answered.
pub(crate) const STATE_REPLY: u32 = 3;

/// `Call::action`: the call's result is in `call.rax`, nothing else changed.
pub(crate) const ACTION_RESULT: u16 = 0;
/// `Call::action`: load all of `regs`.
pub(crate) const ACTION_LOAD: u16 = 1;
/// `Call::action`: as before, after the extended state at `xstate`.
pub(crate) const ACTION_LOAD_ALL: u16 = 2;
/// `Call::action`: save the extended state at [`XSAVE_AREA`] and ask again.
pub(crate) const ACTION_SAVE: u16 = 3;
/// `Call::action`: go on with what the signal in `frame` interrupted.
pub(crate) const ACTION_RETURN: u16 = 4;
/// `Call::action`: end this thread.
pub(crate) const ACTION_EXIT: u16 = 5;
/// `Call::action`: `PR_SET_TSC` with `Control::argument`, which goes to the listener as a doorbell
/// does, and ask again.
pub(crate) const ACTION_TSC: u16 = 6;
/// `Call::action`: as [`ACTION_LOAD_ALL`], for a guest that is new in this thread.
pub(crate) const ACTION_LOAD_FIRST: u16 = 7;
/// `Call::action`: give the signal stack up, and ask again. Nothing on it is needed any more.
pub(crate) const ACTION_UNWIND: u16 = 8;

/// `Call::kind`: a patched call site was executed.
pub(crate) const KIND_PATCHED: u16 = 1;
/// `Call::kind`: the host delivered a signal.
pub(crate) const KIND_SIGNAL: u16 = 2;

/// Distance of the page with [`Constants`] from the code.
pub(crate) const CONSTANTS: u64 = PAGE_SIZE;
/// Distance of the command page from the code.
pub(crate) const COMMANDS: u64 = 2 * PAGE_SIZE;
/// Distance of the scratch page from the code. It is gone before guest code runs.
pub(crate) const SCRATCH: u64 = 3 * PAGE_SIZE;

/// Bytes of a guest thread's block, which is as much aligned.
pub(crate) const BLOCK_LEN: u64 = 1 << 15;
/// Where in a block the extended state goes for [`ACTION_SAVE`].
pub(crate) const XSAVE_AREA: u64 = PAGE_SIZE;
/// Bytes for it.
pub(crate) const XSAVE_LEN: u64 = 2 * PAGE_SIZE;
/// Where in a block the signal stack begins. It reaches up to the end.
pub(crate) const SIGNAL_STACK: u64 = XSAVE_AREA + XSAVE_LEN;
/// All blocks are in a range of 2^32 bytes that begins at a multiple of that, of which these
/// are the upper 32 bits: a GS base that has them is a block's.
pub(crate) const BLOCKS_HIGH: u32 = 0x7fff;

/// How many numbers of system calls the stub can answer: the highest is one less.
pub(crate) const ANSWERS_MAX: usize = 512;

/// How many different answers it can give: index 0 is for none.
pub(crate) const ANSWER_VALUES: usize = 16;

/// All of a plain system call and of its answer: one cache line, so that each costs one transfer from
/// CPU to CPU.
#[derive(Clone, Copy, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
#[repr(C)]
pub(crate) struct Call {
    /// `STATE_*`. Written last, by both sides.
    pub(crate) state: u32,
    /// `ACTION_*`, of an answer.
    pub(crate) action: u16,
    /// `KIND_*`, of a request. The rest is for [`KIND_PATCHED`].
    pub(crate) kind: u16,
    /// The call's number; its result.
    pub(crate) rax: u64,
    /// Its arguments, in the order of the convention: rdi, rsi, rdx, r10, r8, r9.
    pub(crate) args: [u64; 6],
}

/// The first page of a block, shared by guest and Sentry. Both write; the guest may write anything
/// at any time.
#[repr(C, align(64))]
pub(crate) struct Control {
    pub(crate) call: Call,
    /// The guest's registers at its last request by a patched call site, and those it goes on with.
    pub(crate) regs: Registers,
    /// Where a patched call site goes on.
    pub(crate) tail: u64,
    /// The [`Frame`] of a request by signal.
    pub(crate) frame: u64,
    /// Extended state to be loaded.
    pub(crate) xstate: u64,
    pub(crate) signo: u32,
    /// How often the guest may look for the reply before it rings; 0 if the Sentry sleeps.
    pub(crate) patience: u32,
    /// For the action.
    pub(crate) argument: u32,
    /// For the stub's own use.
    spare: u64,
    /// For each system call that the stub answers: the index in `answers`, else 0.
    pub(crate) answered: [u8; ANSWERS_MAX],
    /// The answers.
    pub(crate) answers: [u64; ANSWER_VALUES],
}

/// A read-only page of the stub.
#[derive(Clone, Copy, zerocopy::IntoBytes, zerocopy::Immutable)]
#[repr(C)]
pub(crate) struct Constants {
    /// Which extended state is kept (XCR0 without what a guest cannot have).
    pub(crate) xstate_mask: u64,
    /// How long a cloner waits for its first order: a `struct timespec`.
    pub(crate) first_birth: [u64; 2],
    /// `struct sock_fprog` of the filter with a listener.
    pub(crate) listener: [u64; 2],
    /// `struct sock_fprog` of the filter that leaves a guest thread nothing but the doorbell.
    pub(crate) closed: [u64; 2],
}

/// The command page: written by the Sentry, readable for the stub.
#[derive(Clone, Copy, zerocopy::IntoBytes, zerocopy::Immutable)]
#[repr(C)]
pub(crate) struct BirthRecord {
    /// A futex: changes when a thread is to be made.
    pub(crate) sequence: u32,
    /// Whether it is to be an executor.
    pub(crate) executor: u32,
    /// Flags of its clone.
    pub(crate) flags: u64,
    /// Address of its block.
    pub(crate) block: u64,
    /// Its `stack_t`.
    pub(crate) signal_stack: [u64; 3],
    /// The `struct msghdr` of the message with its listener.
    pub(crate) message: [u64; 7],
    /// The message's `struct iovec`.
    pub(crate) iov: [u64; 2],
    /// The message's control part: one descriptor.
    pub(crate) control: [u64; 3],
    /// The message: says which birth it was.
    pub(crate) id: u64,
    /// Follows `id` in a message that says that there was none.
    pub(crate) failed: u64,
}

/// Where in the command page the executor's commands begin.
pub(crate) const COMMANDS_START: u64 = 512;
/// How many commands fit.
pub(crate) const BATCH_MAX: usize = (PAGE_SIZE - COMMANDS_START) as usize / size_of::<Command>();

/// Scratch page: `struct msghdr` of an order, its iovec, the order, room for a descriptor, the
/// result; `struct msghdr` with an executor's listener, and its control part.
pub(crate) mod scratch {
    pub(crate) const MESSAGE: u64 = 0;
    pub(crate) const IOV: u64 = 64;
    pub(crate) const ORDER: u64 = 128;
    pub(crate) const CONTROL: u64 = 256;
    pub(crate) const RESULT: u64 = 320;
    pub(crate) const LISTENER_MESSAGE: u64 = 384;
    pub(crate) const LISTENER_IOV: u64 = 448;
    pub(crate) const LISTENER_CONTROL: u64 = 512;
}

/// Number of an order that brings a descriptor and calls nothing.
pub(crate) const ORDER_DONATION: i64 = -1;

/// The first descriptor that a thread opens after it closed all but the named ones.
const FD_FIRST_FREE: u64 = FD_READY;

const LISTENER_FLAGS: u64 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
    | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
    | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;

/// What is on the signal stack after a signal: what the handler pushed, then the host's
/// `struct rt_sigframe` (`arch/x86/include/asm/sigframe.h`).
#[derive(Clone, Copy, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
#[repr(C)]
pub(crate) struct Frame {
    pub(crate) fs_base: u64,
    pub(crate) gs_base: u64,
    restorer: u64,
    /// `uc_flags`, `uc_link`, `uc_stack`.
    ucontext: [u64; 5],
    pub(crate) context: SignalContext,
    mask: u64,
    /// `struct siginfo`: number, error, code, padding, then what depends on the signal.
    pub(crate) signo: i32,
    errno: i32,
    pub(crate) code: i32,
    pad: i32,
    pub(crate) addr: u64,
    /// For SIGSYS: the call's number and `AUDIT_ARCH_*`.
    pub(crate) nr: i32,
    pub(crate) arch: u32,
}

/// The host's `struct sigcontext_64` (`arch/x86/include/uapi/asm/sigcontext.h`).
#[derive(Clone, Copy, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
#[repr(C)]
#[allow(missing_docs)] // The names are the hardware's.
pub(crate) struct SignalContext {
    pub(crate) r8: u64,
    pub(crate) r9: u64,
    pub(crate) r10: u64,
    pub(crate) r11: u64,
    pub(crate) r12: u64,
    pub(crate) r13: u64,
    pub(crate) r14: u64,
    pub(crate) r15: u64,
    pub(crate) rdi: u64,
    pub(crate) rsi: u64,
    pub(crate) rbp: u64,
    pub(crate) rbx: u64,
    pub(crate) rdx: u64,
    pub(crate) rax: u64,
    pub(crate) rcx: u64,
    pub(crate) rsp: u64,
    pub(crate) rip: u64,
    pub(crate) eflags: u64,
    pub(crate) cs: u16,
    pub(crate) gs: u16,
    pub(crate) fs: u16,
    pub(crate) ss: u16,
    pub(crate) err: u64,
    pub(crate) trapno: u64,
    pub(crate) oldmask: u64,
    pub(crate) cr2: u64,
    pub(crate) fpstate: u64,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Call>() == 64 && offset_of!(Control, call) == 0);

global_asm!(
    ".pushsection .rodata.rsentry_doorbell, \"a\", @progbits",
    ".balign 64",
    ".globl rsentry_doorbell_start",
    ".hidden rsentry_doorbell_start",
    "rsentry_doorbell_start:",

    // ---- The template.
    "    mov edi, {fd_ready}",
    "    mov eax, {close}",
    "    syscall",
    "10: lea rbx, [rip + rsentry_doorbell_start + {SCRATCH}]",
    "    mov qword ptr [rbx + {MESSAGE} + 40], {CONTROL_LEN}",
    "    mov qword ptr [rbx + {MESSAGE} + 48], 0",
    "    mov qword ptr [rbx + {CONTROL}], 0",
    "    mov edi, {fd_orders}",
    "    lea rsi, [rbx + {MESSAGE}]",
    "    xor edx, edx",
    "    mov eax, {recvmsg}",
    "    syscall",
    "    cmp rax, -{eintr}",
    "    je 10b",
    "    cmp rax, {ORDER_LEN}",
    "    jne 99f",
    "    mov rax, [rbx + {ORDER}]",
    "    cmp rax, {ORDER_DONATION}",
    "    je 13f",
    "    mov rdi, [rbx + {ORDER} + 8]",
    "    mov rsi, [rbx + {ORDER} + 16]",
    "    mov rdx, [rbx + {ORDER} + 24]",
    "    mov r10, [rbx + {ORDER} + 32]",
    "    mov r8, [rbx + {ORDER} + 40]",
    "    mov r9, [rbx + {ORDER} + 48]",
    "    mov r12, [rbx + {ORDER} + 56]",
    "    mov ebp, eax",
    "    syscall",
    "    cmp ebp, {clone}",
    "    jne 11f",
    "    test eax, eax",
    "    jz 20f",
    "11: mov [rbx + {RESULT}], rax",
    "12: mov edi, {fd_orders}",
    "    lea rsi, [rbx + {RESULT}]",
    "    mov edx, 8",
    "    mov eax, {write}",
    "    syscall",
    "    cmp rax, -{eintr}",
    "    je 12b",
    "    jmp 10b",
    "13: mov eax, [rbx + {CONTROL} + 16]",
    "    cmp qword ptr [rbx + {CONTROL}], {CONTROL_USED}",
    "    je 11b",
    "    mov rax, -{emfile}",
    "    jmp 11b",

    // ---- The cloner of a new stub process. r12: where its command page is in the memory file.
    "20: lea r14, [rip + rsentry_doorbell_start + {COMMANDS}]",
    "    mov rdi, r14",
    "    mov esi, {PAGE_SIZE}",
    "    mov edx, {prot_read}",
    "    mov r10d, {map_shared_fixed}",
    "    mov r8d, {fd_memory}",
    "    mov r9, r12",
    "    mov eax, {mmap}",
    "    syscall",
    "    cmp rax, r14",
    "    jne 99f",
    "    xor ebx, ebx",
    "21: lea rdi, [r14 + {SEQUENCE}]",
    "    mov esi, {futex_wait}",
    "    mov edx, ebx",
    "    xor r10d, r10d",
    // The executor, which comes first, notices the Sentry's death; until then, time does.
    "    test ebx, ebx",
    "    jnz 23f",
    "    lea r10, [rip + rsentry_doorbell_start + {CONSTANTS} + {FIRST_BIRTH}]",
    "23: mov eax, {futex}",
    "    syscall",
    "    cmp rax, -{etimedout}",
    "    je 99f",
    "    mov eax, [r14 + {SEQUENCE}]",
    "    cmp eax, ebx",
    "    je 21b",
    "    mov ebx, eax",
    "    mov rdi, [r14 + {FLAGS}]",
    "    xor esi, esi",
    "    xor edx, edx",
    "    xor r10d, r10d",
    "    xor r8d, r8d",
    "    mov eax, {clone}",
    "    syscall",
    "    test rax, rax",
    "    jz 22f",
    "    jns 21b",
    "    mov edi, {fd_births}",
    "    lea rsi, [r14 + {ID}]",
    "    mov edx, 16",
    "    mov eax, {write}",
    "    syscall",
    "    jmp 21b",

    // ---- A new thread. r14: the command page.
    "22: cmp dword ptr [r14 + {EXECUTOR}], 0",
    "    jne 30f",
    // A guest thread needs no descriptors.
    "    mov edi, {FD_FIRST_FREE}",
    "    mov esi, -1",
    "    xor edx, edx",
    "    mov eax, {close_range}",
    "    syscall",
    "    test eax, eax",
    "    jnz 99f",
    "    lea rdi, [r14 + {SIGNAL_STACK_T}]",
    "    xor esi, esi",
    "    mov eax, {sigaltstack}",
    "    syscall",
    "    test eax, eax",
    "    jnz 99f",
    "    mov r15, [r14 + {BLOCK}]",
    "    mov edi, {seccomp_set_mode_filter}",
    "    mov esi, {LISTENER_FLAGS}",
    "    lea rdx, [rip + rsentry_doorbell_start + {CONSTANTS} + {LISTENER}]",
    "    mov eax, {seccomp}",
    "    syscall",
    "    cmp eax, {FD_FIRST_FREE}",
    "    jne 99f",
    "    mov edi, {fd_births}",
    "    lea rsi, [r14 + {BIRTH_MESSAGE}]",
    "    mov edx, {msg_nosignal}",
    "    mov eax, {sendmsg}",
    "    syscall",
    "    cmp eax, 8",
    "    jne 99f",
    "    xor edi, edi",
    "    mov esi, -1",
    "    xor edx, edx",
    "    mov eax, {close_range}",
    "    syscall",
    "    test eax, eax",
    "    jnz 99f",
    "    mov edi, {seccomp_set_mode_filter}",
    "    mov esi, {spec_allow}",
    "    lea rdx, [rip + rsentry_doorbell_start + {CONSTANTS} + {CLOSED}]",
    "    mov eax, {seccomp}",
    "    syscall",
    "    test eax, eax",
    "    jnz 99f",
    "    wrgsbase r15",
    "    lea rsp, [r15 + {BLOCK_LEN} - 64]",
    "    jmp 54f",

    // ---- The executor. There is no guest in the process yet, so it can use the scratch page.
    "30: mov edi, {seccomp_set_mode_filter}",
    "    mov esi, {LISTENER_FLAGS}",
    "    lea rdx, [rip + rsentry_doorbell_start + {CONSTANTS} + {LISTENER}]",
    "    mov eax, {seccomp}",
    "    syscall",
    "    test eax, eax",
    "    js 99f",
    "    mov ebx, eax",
    "    lea rbp, [rip + rsentry_doorbell_start + {SCRATCH}]",
    "    mov [rbp + {LISTENER_CONTROL} + 16], eax",
    "    mov edi, {fd_births}",
    "    lea rsi, [rbp + {LISTENER_MESSAGE}]",
    "    mov edx, {msg_nosignal}",
    "    mov eax, {sendmsg}",
    "    syscall",
    "    cmp eax, 8",
    "    jne 99f",
    "    mov edi, ebx",
    "    mov eax, {close}",
    "    syscall",
    "    xor ebx, ebx",
    "    xor ebp, ebp",
    // Reports how many commands went well and the last result; the answer is the next number.
    "31: mov edi, ebx",
    "    mov rsi, rbp",
    "    mov eax, {DOORBELL}",
    "    syscall",
    "    cmp rax, -{eintr}",
    "    je 31b",
    "    test rax, rax",
    "    js 99f",
    "    mov r12d, eax",
    "    xor ebx, ebx",
    "32: cmp ebx, r12d",
    "    jae 31b",
    "    mov ebp, ebx",
    "    shl ebp, {COMMAND_SHIFT}",
    "    lea rbp, [r14 + rbp + {COMMANDS_START}]",
    "    mov rax, [rbp]",
    "    mov rdi, [rbp + 8]",
    "    mov rsi, [rbp + 16]",
    "    mov rdx, [rbp + 24]",
    "    mov r10, [rbp + 32]",
    "    mov r8, [rbp + 40]",
    "    mov r9, [rbp + 48]",
    "    syscall",
    "    mov rbp, rax",
    "    cmp rax, -4095",
    "    jae 31b",
    "    inc ebx",
    "    jmp 32b",

    // ---- A signal: edi its number, rsp its frame, which lies in the thread's block.
    ".balign 16",
    ".globl rsentry_doorbell_signal",
    ".hidden rsentry_doorbell_signal",
    "rsentry_doorbell_signal:",
    "    mov r15, rsp",
    "    and r15, -{BLOCK_LEN}",
    "    rdfsbase rax",
    "    rdgsbase rcx",
    "    wrgsbase r15",
    ".globl rsentry_doorbell_pushing",
    ".hidden rsentry_doorbell_pushing",
    "rsentry_doorbell_pushing:",
    "    push rcx",
    "    push rax",
    ".globl rsentry_doorbell_pushed",
    ".hidden rsentry_doorbell_pushed",
    "rsentry_doorbell_pushed:",
    "    cmp edi, {sigurg}",
    "    je 42f",
    "    mov [r15 + {FRAME}], rsp",
    "    mov [r15 + {SIGNO}], edi",
    "    mov word ptr [r15 + {KIND}], {KIND_SIGNAL}",
    "    jmp 50f",
    "42: mov edi, {RING_KICK}",
    "    mov rsi, rsp",
    "    mov eax, {DOORBELL}",
    "    syscall",
    ".globl rsentry_doorbell_rung",
    ".hidden rsentry_doorbell_rung",
    "rsentry_doorbell_rung:",
    "    test rax, rax",
    "    jz 60f",
    "    cmp rax, -{eintr}",
    "    je 42b",
    "    jmp 99f",

    // ---- A patched call site. rcx: address of a word with the address behind the guest's system
    // call, followed by where to go on; r11: free. The red zone and the flags are the guest's.
    ".balign 16",
    ".globl rsentry_doorbell_entry",
    ".hidden rsentry_doorbell_entry",
    "rsentry_doorbell_entry:",
    // Is GS ours? Without touching the flags: the upper half of the base, its bytes reversed.
    "    rdgsbase r11",
    "    bswap r11",
    "    mov r11d, r11d",
    "    lea r11d, [r11 + {NEGATED_HIGH}]",
    "    xchg rcx, r11",
    ".globl rsentry_doorbell_exchanged",
    ".hidden rsentry_doorbell_exchanged",
    "rsentry_doorbell_exchanged:",
    "    jrcxz 45f",
    // No: enter by signal. r11 is what rcx was.
    "    ud2",
    "45: mov rcx, [r11]",
    "    mov gs:[{RSP}], rsp",
    "    rdgsbase rsp",
    ".globl rsentry_doorbell_committed",
    ".hidden rsentry_doorbell_committed",
    "rsentry_doorbell_committed:",
    "    lea rsp, [rsp + {EFLAGS} + 8]",
    "    pushfq",
    "    lea rsp, [rsp - 8]",
    "    push rcx", // rip
    "    push rax", // orig_rax
    "    push rdi",
    "    push rsi",
    "    push rdx",
    "    push rcx",
    "    push rax",
    "    push r8",
    "    push r9",
    "    push r10",
    "    lea rsp, [rsp - 8]", // r11
    "    push rbx",
    "    push rbp",
    "    push r12",
    "    push r13",
    "    push r14",
    "    push r15",
    "    lea r15, [rsp - {REGS}]",
    ".globl rsentry_doorbell_complete",
    ".hidden rsentry_doorbell_complete",
    "rsentry_doorbell_complete:",
    "    lea r11, [r11 + 8]",
    "    mov [r15 + {TAIL}], r11",
    "    cmp rax, {ANSWERS_MAX}",
    "    jae 46f",
    "    movzx ecx, byte ptr [r15 + rax + {ANSWERED}]",
    "    test ecx, ecx",
    "    jz 46f",
    "    mov rax, [r15 + rcx * 8 + {ANSWERS}]",
    "    lea rsp, [r15 + {EFLAGS}]",
    "    mov r11, [rsp]",
    "    popfq",
    "    mov rcx, [r15 + {RIP}]",
    "    mov rsp, [r15 + {RSP}]",
    "    mov r15, [r15 + {REGS}]",
    "    jmp qword ptr gs:[{TAIL}]",
    "46: rdfsbase rcx",
    "    mov [r15 + {REGS_FS_BASE}], rcx",
    // What most calls need, where the other side looks.
    "    mov [r15 + {CALL_RAX}], rax",
    "    mov [r15 + {CALL_ARGS}], rdi",
    "    mov [r15 + {CALL_ARGS} + 8], rsi",
    "    mov [r15 + {CALL_ARGS} + 2 * 8], rdx",
    "    mov [r15 + {CALL_ARGS} + 3 * 8], r10",
    "    mov [r15 + {CALL_ARGS} + 4 * 8], r8",
    "    mov [r15 + {CALL_ARGS} + 5 * 8], r9",
    "    mov word ptr [r15 + {KIND}], {KIND_PATCHED}",

    // ---- A request is ready in the block at r15. rsp stays as it is until the reply.
    ".globl rsentry_doorbell_ready",
    ".hidden rsentry_doorbell_ready",
    "rsentry_doorbell_ready:",
    "50: mov eax, {STATE_REQUEST}",
    "    xchg [r15 + {STATE}], eax",
    ".globl rsentry_doorbell_wait",
    ".hidden rsentry_doorbell_wait",
    "rsentry_doorbell_wait:",
    "    mov ecx, [r15 + {PATIENCE}]",
    "    test ecx, ecx",
    "    jz 53f",
    "52: cmp dword ptr [r15 + {STATE}], {STATE_REPLY}",
    "    je 60f",
    "    pause",
    "    dec ecx",
    "    jnz 52b",
    "53: mov eax, {STATE_REQUEST}",
    "    mov ecx, {STATE_ASLEEP}",
    "    lock cmpxchg [r15 + {STATE}], ecx",
    "    jnz 60f",
    "54: xor edi, edi",
    "    xor esi, esi",
    "    mov eax, {DOORBELL}",
    "    syscall",
    "    test rax, rax",
    "    jz 60f",
    "    cmp rax, -{eintr}",
    "    je 54b",
    "    jmp 99f",

    // ---- There is a reply.
    "60: movzx eax, word ptr [r15 + {ACTION}]",
    "    test eax, eax",
    "    jz 66f",
    "    cmp eax, {ACTION_LOAD}",
    "    je 62f",
    "    cmp eax, {ACTION_LOAD_ALL}",
    "    je 61f",
    "    cmp eax, {ACTION_RETURN}",
    "    je 70f",
    "    cmp eax, {ACTION_EXIT}",
    "    je 64f",
    "    cmp eax, {ACTION_TSC}",
    "    je 65f",
    "    cmp eax, {ACTION_LOAD_FIRST}",
    "    je 67f",
    "    cmp eax, {ACTION_UNWIND}",
    "    je 68f",
    // Save.
    "    mov eax, [rip + rsentry_doorbell_start + {CONSTANTS} + {XSTATE_MASK}]",
    "    mov edx, [rip + rsentry_doorbell_start + {CONSTANTS} + {XSTATE_MASK} + 4]",
    "    xsave64 [r15 + {XSAVE_AREA}]",
    "    jmp 50b",
    // The next signal is to find the whole stack.
    "68: lea rsp, [r15 + {BLOCK_LEN} - 64]",
    "    jmp 50b",
    // Change what the thread may.
    "65: mov edi, {pr_set_tsc}",
    "    mov esi, [r15 + {ARGUMENT}]",
    "    mov eax, {prctl}",
    "    syscall",
    "    jmp 50b",
    // Load. No register holds a segment, so the last guest's are here still.
    "67: xor eax, eax",
    "    mov ds, eax",
    "    mov es, eax",
    "    mov fs, eax",
    "    mov gs, eax",
    "61: mov eax, [rip + rsentry_doorbell_start + {CONSTANTS} + {XSTATE_MASK}]",
    "    mov edx, [rip + rsentry_doorbell_start + {CONSTANTS} + {XSTATE_MASK} + 4]",
    "    mov rcx, [r15 + {XSTATE}]",
    "    xrstor64 [rcx]",
    ".globl rsentry_doorbell_loaded",
    ".hidden rsentry_doorbell_loaded",
    "rsentry_doorbell_loaded:",
    "62: mov rax, [r15 + {REGS_FS_BASE}]",
    "    wrfsbase rax",
    // NT would make iretq fail, AC the loads.
    "    lea rsp, [r15 + {SPARE} + 8]",
    "    push 2",
    "    popfq",
    "    mov rax, [r15 + {REGS_GS_BASE}]",
    "    wrgsbase rax",
    "    lea rsp, [r15 + {REGS}]",
    "    pop r15",
    "    pop r14",
    "    pop r13",
    "    pop r12",
    "    pop rbp",
    "    pop rbx",
    "    pop r11",
    "    pop r10",
    "    pop r9",
    "    pop r8",
    "    pop rax",
    "    pop rcx",
    "    pop rdx",
    "    pop rsi",
    "    pop rdi",
    "    lea rsp, [rsp + 8]",
    "    iretq",
    "64: xor edi, edi",
    "    mov eax, {exit}",
    "    syscall",
    "    ud2",

    // ---- The result of a patched call.
    "66: lea rsp, [r15 + {EFLAGS}]",
    "    mov r11, [rsp]",
    "    popfq",
    "    mov rdi, [r15 + {RDI}]",
    "    mov rsi, [r15 + {RSI}]",
    "    mov rdx, [r15 + {RDX}]",
    "    mov rcx, [r15 + {RIP}]",
    "    mov rax, [r15 + {CALL_RAX}]",
    "    mov rsp, [r15 + {RSP}]",
    "    mov r15, [r15 + {REGS}]",
    "    jmp qword ptr gs:[{TAIL}]",

    // ---- Back to what the signal in the frame at rsp interrupted.
    ".globl rsentry_doorbell_return",
    ".hidden rsentry_doorbell_return",
    "rsentry_doorbell_return:",
    "70: mov eax, [rip + rsentry_doorbell_start + {CONSTANTS} + {XSTATE_MASK}]",
    "    mov edx, [rip + rsentry_doorbell_start + {CONSTANTS} + {XSTATE_MASK} + 4]",
    "    mov rcx, [rsp + {CTX} + 23 * 8]",
    "    xrstor64 [rcx]",
    "    mov rax, [rsp + 8]",
    "    wrgsbase rax",
    "    mov rbx, rsp",
    ".globl rsentry_doorbell_return_held",
    ".hidden rsentry_doorbell_return_held",
    "rsentry_doorbell_return_held:",
    "    push 2",
    "    popfq",
    "    movzx eax, word ptr [rbx + {CTX} + 18 * 8 + 6]",
    "    push rax",
    "    push qword ptr [rbx + {CTX} + 15 * 8]",
    "    push qword ptr [rbx + {CTX} + 17 * 8]",
    "    movzx eax, word ptr [rbx + {CTX} + 18 * 8]",
    "    push rax",
    "    push qword ptr [rbx + {CTX} + 16 * 8]",
    "    mov r8, [rbx + {CTX}]",
    "    mov r9, [rbx + {CTX} + 8]",
    "    mov r10, [rbx + {CTX} + 2 * 8]",
    "    mov r11, [rbx + {CTX} + 3 * 8]",
    "    mov r12, [rbx + {CTX} + 4 * 8]",
    "    mov r13, [rbx + {CTX} + 5 * 8]",
    "    mov r14, [rbx + {CTX} + 6 * 8]",
    "    mov r15, [rbx + {CTX} + 7 * 8]",
    "    mov rdi, [rbx + {CTX} + 8 * 8]",
    "    mov rsi, [rbx + {CTX} + 9 * 8]",
    "    mov rbp, [rbx + {CTX} + 10 * 8]",
    "    mov rdx, [rbx + {CTX} + 12 * 8]",
    "    mov rax, [rbx + {CTX} + 13 * 8]",
    "    mov rcx, [rbx + {CTX} + 14 * 8]",
    "    mov rbx, [rbx + {CTX} + 11 * 8]",
    ".globl rsentry_doorbell_return_last",
    ".hidden rsentry_doorbell_return_last",
    "rsentry_doorbell_return_last:",
    "    iretq",

    // ---- Something that cannot be: the Sentry is gone, or the host refused what it must not.
    "99: xor edi, edi",
    "    mov eax, {exit_group}",
    "    syscall",
    ".globl rsentry_doorbell_restorer",
    ".hidden rsentry_doorbell_restorer",
    "rsentry_doorbell_restorer:",
    "    ud2",
    ".globl rsentry_doorbell_end",
    ".hidden rsentry_doorbell_end",
    "rsentry_doorbell_end:",
    ".popsection",
    fd_ready = const FD_READY,
    fd_orders = const FD_ORDERS,
    fd_births = const FD_BIRTHS,
    fd_memory = const FD_MEMORY,
    FD_FIRST_FREE = const FD_FIRST_FREE,
    close = const libc::SYS_close,
    recvmsg = const libc::SYS_recvmsg,
    sendmsg = const libc::SYS_sendmsg,
    write = const libc::SYS_write,
    clone = const libc::SYS_clone,
    mmap = const libc::SYS_mmap,
    futex = const libc::SYS_futex,
    close_range = const libc::SYS_close_range,
    sigaltstack = const libc::SYS_sigaltstack,
    seccomp = const libc::SYS_seccomp,
    exit = const libc::SYS_exit,
    exit_group = const libc::SYS_exit_group,
    eintr = const libc::EINTR,
    etimedout = const libc::ETIMEDOUT,
    emfile = const libc::EMFILE,
    sigurg = const libc::SIGURG,
    prot_read = const libc::PROT_READ,
    map_shared_fixed = const libc::MAP_SHARED | libc::MAP_FIXED,
    futex_wait = const libc::FUTEX_WAIT,
    msg_nosignal = const libc::MSG_NOSIGNAL,
    seccomp_set_mode_filter = const libc::SECCOMP_SET_MODE_FILTER,
    spec_allow = const libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    LISTENER_FLAGS = const LISTENER_FLAGS,
    PAGE_SIZE = const PAGE_SIZE,
    CONSTANTS = const CONSTANTS,
    COMMANDS = const COMMANDS,
    SCRATCH = const SCRATCH,
    COMMANDS_START = const COMMANDS_START,
    COMMAND_SHIFT = const size_of::<Command>().trailing_zeros(),
    MESSAGE = const scratch::MESSAGE,
    ORDER = const scratch::ORDER,
    ORDER_LEN = const size_of::<Command>(),
    ORDER_DONATION = const ORDER_DONATION,
    CONTROL = const scratch::CONTROL,
    CONTROL_LEN = const CONTROL_LEN,
    CONTROL_USED = const CONTROL_USED,
    RESULT = const scratch::RESULT,
    LISTENER_MESSAGE = const scratch::LISTENER_MESSAGE,
    LISTENER_CONTROL = const scratch::LISTENER_CONTROL,
    SEQUENCE = const offset_of!(BirthRecord, sequence),
    EXECUTOR = const offset_of!(BirthRecord, executor),
    FLAGS = const offset_of!(BirthRecord, flags),
    BLOCK = const offset_of!(BirthRecord, block),
    SIGNAL_STACK_T = const offset_of!(BirthRecord, signal_stack),
    BIRTH_MESSAGE = const offset_of!(BirthRecord, message),
    ID = const offset_of!(BirthRecord, id),
    XSTATE_MASK = const offset_of!(Constants, xstate_mask),
    FIRST_BIRTH = const offset_of!(Constants, first_birth),
    LISTENER = const offset_of!(Constants, listener),
    CLOSED = const offset_of!(Constants, closed),
    DOORBELL = const DOORBELL,
    RING_KICK = const RING_KICK,
    BLOCK_LEN = const BLOCK_LEN,
    XSAVE_AREA = const XSAVE_AREA,
    NEGATED_HIGH = const BLOCKS_HIGH.swap_bytes().wrapping_neg() as i32,
    EFLAGS = const offset_of!(Control, regs) + offset_of!(Registers, eflags),
    RSP = const offset_of!(Control, regs) + offset_of!(Registers, rsp),
    RIP = const offset_of!(Control, regs) + offset_of!(Registers, rip),
    REGS = const offset_of!(Control, regs),
    CALL_RAX = const offset_of!(Control, call.rax),
    CALL_ARGS = const offset_of!(Control, call.args),
    RDI = const offset_of!(Control, regs) + offset_of!(Registers, rdi),
    RDX = const offset_of!(Control, regs) + offset_of!(Registers, rdx),
    RSI = const offset_of!(Control, regs) + offset_of!(Registers, rsi),
    REGS_FS_BASE = const offset_of!(Control, regs) + offset_of!(Registers, fs_base),
    REGS_GS_BASE = const offset_of!(Control, regs) + offset_of!(Registers, gs_base),
    TAIL = const offset_of!(Control, tail),
    FRAME = const offset_of!(Control, frame),
    XSTATE = const offset_of!(Control, xstate),
    STATE = const offset_of!(Control, call.state),
    ACTION = const offset_of!(Control, call.action),
    KIND = const offset_of!(Control, call.kind),
    SIGNO = const offset_of!(Control, signo),
    SPARE = const offset_of!(Control, spare),
    PATIENCE = const offset_of!(Control, patience),
    ANSWERED = const offset_of!(Control, answered),
    ANSWERS = const offset_of!(Control, answers),
    ANSWERS_MAX = const ANSWERS_MAX,
    KIND_SIGNAL = const KIND_SIGNAL,
    KIND_PATCHED = const KIND_PATCHED,
    STATE_REQUEST = const STATE_REQUEST,
    STATE_ASLEEP = const STATE_ASLEEP,
    STATE_REPLY = const STATE_REPLY,
    ACTION_LOAD = const ACTION_LOAD,
    ACTION_LOAD_ALL = const ACTION_LOAD_ALL,
    ACTION_RETURN = const ACTION_RETURN,
    ACTION_EXIT = const ACTION_EXIT,
    ACTION_TSC = const ACTION_TSC,
    ARGUMENT = const offset_of!(Control, argument),
    prctl = const libc::SYS_prctl,
    pr_set_tsc = const libc::PR_SET_TSC,
    ACTION_LOAD_FIRST = const ACTION_LOAD_FIRST,
    ACTION_UNWIND = const ACTION_UNWIND,
    CTX = const offset_of!(Frame, context),
);

// SAFETY: labels in the code above; only their addresses are used.
unsafe extern "C" {
    static rsentry_doorbell_start: u8;
    static rsentry_doorbell_signal: u8;
    static rsentry_doorbell_pushing: u8;
    static rsentry_doorbell_pushed: u8;
    static rsentry_doorbell_rung: u8;
    static rsentry_doorbell_entry: u8;
    static rsentry_doorbell_exchanged: u8;
    static rsentry_doorbell_committed: u8;
    static rsentry_doorbell_complete: u8;
    static rsentry_doorbell_ready: u8;
    static rsentry_doorbell_wait: u8;
    static rsentry_doorbell_loaded: u8;
    static rsentry_doorbell_return: u8;
    static rsentry_doorbell_return_held: u8;
    static rsentry_doorbell_return_last: u8;
    static rsentry_doorbell_restorer: u8;
    static rsentry_doorbell_end: u8;
}

/// The stub's code. It begins with the template's.
pub(crate) fn code() -> &'static [u8] {
    let start = &raw const rsentry_doorbell_start;
    let end = &raw const rsentry_doorbell_end;
    // SAFETY: both labels delimit the same read-only section.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

fn offset(label: *const u8) -> u64 {
    label as u64 - (&raw const rsentry_doorbell_start) as u64
}

/// Offset of the signal handler in the code.
pub(crate) fn signal_offset() -> u64 {
    offset(&raw const rsentry_doorbell_signal)
}

/// Offset of what the signal handler would return to.
pub(crate) fn restorer_offset() -> u64 {
    offset(&raw const rsentry_doorbell_restorer)
}

/// Offset of where patched call sites lead.
pub(crate) fn entry_offset() -> u64 {
    offset(&raw const rsentry_doorbell_entry)
}

/// What a thread that is somewhere in the stub's code is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    /// It executes what is meant for other threads.
    Foreign,
    /// It enters by signal. The frame lies 16 bytes below the stack pointer, less what was `pushed`.
    Entering {
        /// Whether GS is the stub's already, and rcx what it was.
        exchanged: bool,
        /// Bytes of the frame's beginning that are there.
        pushed: u64,
    },
    /// It has rung for a kick, whose frame is at the stack pointer; rax is the answer.
    Rung,
    /// It enters from a patched call site, and nothing but rcx and r11 has been changed. Before
    /// the exchange, rcx still is what the call site put there.
    Entry {
        /// Whether r11 is what rcx was.
        exchanged: bool,
    },
    /// As `Entry`, but the stack pointer is in the block, and rcx is where the guest goes on.
    Saving,
    /// The registers of a patched call are in the block, but for the FS base; it may be answering by
    /// itself.
    Answering,
    /// A request is in the block and about to be made.
    Asking,
    /// The request stands; it waits.
    Waiting,
    /// It goes on with the reply, and the extended state is the guest's already.
    Leaving,
    /// It goes on with what a signal interrupted.
    Returning(Held),
}

/// Where the address is of the frame that a thread returns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// In rsp.
    Stack,
    /// In rbx.
    Base,
    /// In rsp, behind what `iretq` takes.
    Behind,
}

/// Bytes that `iretq` takes.
pub(crate) const IRET_LEN: u64 = 40;

/// What is being done at this offset in the code; `None` outside of it.
pub(crate) fn zone(at: u64) -> Option<Zone> {
    let before = |label: *const u8| at < offset(label);
    if at >= code().len() as u64 {
        return None;
    }
    Some(if before(&raw const rsentry_doorbell_signal) {
        Zone::Foreign
    } else if before(&raw const rsentry_doorbell_pushing) {
        Zone::Entering { exchanged: false, pushed: 0 }
    } else if before(&raw const rsentry_doorbell_pushed) {
        // Each is one byte long.
        let pushes = at - offset(&raw const rsentry_doorbell_pushing);
        Zone::Entering { exchanged: true, pushed: 8 * pushes }
    } else if before(&raw const rsentry_doorbell_rung) {
        Zone::Entering { exchanged: true, pushed: 16 }
    } else if before(&raw const rsentry_doorbell_entry) {
        Zone::Rung
    } else if before(&raw const rsentry_doorbell_committed) {
        Zone::Entry { exchanged: !before(&raw const rsentry_doorbell_exchanged) }
    } else if before(&raw const rsentry_doorbell_complete) {
        Zone::Saving
    } else if before(&raw const rsentry_doorbell_ready) {
        Zone::Answering
    } else if before(&raw const rsentry_doorbell_wait) {
        Zone::Asking
    } else if before(&raw const rsentry_doorbell_loaded) {
        // Which of the two it is, the state tells.
        Zone::Waiting
    } else if before(&raw const rsentry_doorbell_return) {
        Zone::Leaving
    } else if before(&raw const rsentry_doorbell_return_held) {
        Zone::Returning(Held::Stack)
    } else if before(&raw const rsentry_doorbell_return_last) {
        Zone::Returning(Held::Base)
    } else {
        Zone::Returning(Held::Behind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_fits_its_page() {
        assert!(code().len() as u64 <= PAGE_SIZE, "{}", code().len());
        assert!(size_of::<BirthRecord>() as u64 <= COMMANDS_START);
        assert!(size_of::<Control>() as u64 <= PAGE_SIZE);
        assert_eq!(size_of::<SignalContext>(), 256);
    }

    #[test]
    fn zones_cover_the_code_in_order() {
        let mut seen = Vec::new();
        for at in 0..code().len() as u64 {
            let zone = zone(at).unwrap();
            if seen.last() != Some(&zone) {
                seen.push(zone);
            }
        }
        assert_eq!(
            seen,
            [
                Zone::Foreign,
                Zone::Entering { exchanged: false, pushed: 0 },
                Zone::Entering { exchanged: true, pushed: 0 },
                Zone::Entering { exchanged: true, pushed: 8 },
                Zone::Entering { exchanged: true, pushed: 16 },
                Zone::Rung,
                Zone::Entry { exchanged: false },
                Zone::Entry { exchanged: true },
                Zone::Saving,
                Zone::Answering,
                Zone::Asking,
                Zone::Waiting,
                Zone::Leaving,
                Zone::Returning(Held::Stack),
                Zone::Returning(Held::Base),
                Zone::Returning(Held::Behind),
            ]
        );
        assert_eq!(zone(code().len() as u64), None);
    }
}
