//! Jumping anywhere and living to tell: signal handlers that bring the thread back.
//!
//! What a handler needs lies at the bottom of the thread's alternate stack, which is aligned to its
//! size, so that no thread-local variable and no segment base has to be right.

use std::mem::zeroed;

use super::asm::{self, Regs};

/// Size and alignment of an alternate stack.
const STACK: usize = 64 << 10;
const MAGIC: u64 = 0x6174_7461_636b_2121;

/// How a jump ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caught {
    /// The signal: SIGALRM if it did not end by itself.
    pub signal: i32,
    pub addr: u64,
    pub rip: u64,
    pub rax: u64,
    pub rflags: u64,
    /// The page fault's error code.
    pub err: u64,
}

impl Caught {
    /// Whether it was a page fault because the target cannot be executed.
    pub fn is_fetch(&self) -> bool {
        self.signal == libc::SIGSEGV && self.err & 16 != 0 && self.addr == self.rip
    }
}

#[repr(C)]
struct Save {
    magic: u64,
    rsp: u64,
    armed: u32,
    tid: i32,
    fs: u64,
    gs: u64,
    /// Jumps made, and how many there were at the last tick.
    jumps: u64,
    at_tick: u64,
    /// Single steps seen, and the last outside of the program's own text.
    steps: u64,
    stray_step: u64,
    caught: Caught,
}

/// The calling thread's means of coming back.
#[derive(Clone, Copy)]
pub struct Catcher {
    save: *mut Save,
}

fn gettid() -> i32 {
    asm::syscall(libc::SYS_gettid as u64, [0; 6]) as i32
}

extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let here = 0u64;
    let save = (&raw const here as usize & !(STACK - 1)) as *mut Save;
    // SAFETY: on a thread with a `Catcher` this is its `Save`, for as long as the thread lives; on
    // another one it dies here, or finds no magic word. The context is the kernel's.
    unsafe {
        if (*save).magic != MAGIC {
            asm::syscall(libc::SYS_exit as u64, [0; 6]);
        }
        asm::set_fs_base((*save).fs);
        asm::set_gs_base((*save).gs);
        if gettid() != (*save).tid {
            // A child that an attack made.
            asm::syscall(libc::SYS_exit_group as u64, [0; 6]);
        }
        let context = &mut *context.cast::<libc::ucontext_t>();
        let gregs = &mut context.uc_mcontext.gregs;
        let rip = gregs[libc::REG_RIP as usize] as u64;
        for (from, to) in [
            (asm::attack_load as *const () as u64, asm::attack_failed as *const () as i64),
            (asm::attack_store as *const () as u64, asm::attack_failed as *const () as i64),
            (asm::attack_copying as *const () as u64, asm::attack_failed as *const () as i64),
        ] {
            if rip == from && matches!(signal, libc::SIGSEGV | libc::SIGBUS) {
                gregs[libc::REG_RIP as usize] = to;
                return;
            }
        }
        if signal == libc::SIGTRAP && (*save).armed == 0 {
            (*save).steps += 1;
            if super::probe::is_stub(rip) {
                (*save).stray_step = rip;
            }
            return;
        }
        if signal == libc::SIGALRM {
            let moved = (*save).at_tick != (*save).jumps;
            (*save).at_tick = (*save).jumps;
            if moved || (*save).armed == 0 {
                return;
            }
        } else if (*save).armed == 0 {
            libc::signal(signal, libc::SIG_DFL);
            return;
        }
        (*save).armed = 0;
        (*save).caught = Caught {
            signal,
            addr: (*info).si_addr() as u64,
            rip,
            rax: gregs[libc::REG_RAX as usize] as u64,
            rflags: gregs[libc::REG_EFL as usize] as u64,
            err: gregs[libc::REG_ERR as usize] as u64,
        };
        gregs[libc::REG_RIP as usize] = asm::attack_resume as *const () as i64;
        gregs[libc::REG_RSP as usize] = (*save).rsp as i64;
        gregs[libc::REG_EFL as usize] = 0x202;
        // ss, fs, gs, cs from the top.
        gregs[libc::REG_CSGSFS as usize] = 0x002b_0000_0000_0033;
    }
}

impl Catcher {
    /// For the calling thread; the handlers are the process's.
    pub fn install() -> Catcher {
        // SAFETY: a fresh mapping, of which an aligned part is used, for ever.
        let save = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let raw = libc::mmap(std::ptr::null_mut(), 2 * STACK, prot, flags, -1, 0);
            assert!(raw != libc::MAP_FAILED, "no memory for a signal stack");
            let base = (raw as usize).next_multiple_of(STACK);
            let stack = libc::stack_t { ss_sp: base as *mut _, ss_flags: 0, ss_size: STACK };
            assert_eq!(libc::sigaltstack(&stack, std::ptr::null_mut()), 0, "sigaltstack");
            let save = base as *mut Save;
            save.write(zeroed());
            (*save).magic = MAGIC;
            (*save).tid = gettid();
            (*save).fs = asm::fs_base();
            (*save).gs = asm::gs_base();
            for signal in [
                libc::SIGSEGV,
                libc::SIGBUS,
                libc::SIGILL,
                libc::SIGFPE,
                libc::SIGTRAP,
                libc::SIGSYS,
                libc::SIGALRM,
            ] {
                let mut action: libc::sigaction = zeroed();
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
                libc::sigfillset(&mut action.sa_mask);
                assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
            }
            save
        };
        Catcher { save }
    }

    /// Ends jumps that take longer than one or two ticks.
    pub fn start_ticks(self) -> Catcher {
        let tick = libc::timeval { tv_sec: 0, tv_usec: 10_000 };
        let timer = libc::itimerval { it_interval: tick, it_value: tick };
        // SAFETY: reads the timer.
        unsafe { libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &raw const timer, 0) };
        self
    }

    /// Jumps to `target` and comes back by a signal. Jumps of several threads at a time must have
    /// one target.
    pub fn jump(&self, target: u64, regs: &Regs) -> Caught {
        // SAFETY: the handler restores what the ABI keeps across calls, if the code at `target`
        // leaves memory alone; where it does not, this process comes to harm, as it asked for.
        unsafe {
            (&raw mut asm::attack_target).write_volatile(target);
            let save = self.save;
            (&raw mut (*save).jumps).write_volatile((*save).jumps + 1);
            (&raw mut (*save).armed).write_volatile(1);
            asm::attack_enter(regs, &raw mut (*save).rsp);
            (&raw const (*save).caught).read_volatile()
        }
    }

    /// Single steps since the last call, and where one was that the program does not know.
    pub fn take_steps(&self) -> (u64, u64) {
        // SAFETY: this thread's.
        unsafe {
            let steps = (&raw const (*self.save).steps).read_volatile();
            let stray = (&raw const (*self.save).stray_step).read_volatile();
            (*self.save).steps = 0;
            (*self.save).stray_step = 0;
            (steps, stray)
        }
    }
}

/// Eight bytes of memory that may not be there. Needs a [`Catcher`] on the thread.
pub fn load(addr: u64) -> Option<u64> {
    let mut value = 0;
    // SAFETY: a fault is caught.
    (unsafe { asm::attack_load(addr, &mut value) } != 0).then_some(value)
}

/// Writes eight bytes to memory that may not be there.
pub fn store(addr: u64, value: u64) -> bool {
    // SAFETY: a fault is caught; what is written to is the attack's business.
    unsafe { asm::attack_store(addr, value) != 0 }
}

/// Copies memory that may not be there.
pub fn copy(from: u64, to: &mut [u8]) -> bool {
    // SAFETY: a fault is caught, and the buffer is as long as it says.
    unsafe { asm::attack_copy(to.as_mut_ptr(), from, to.len()) != 0 }
}
