//! Signal frames on the guest's stack, bit for bit Linux's (`arch/x86/kernel/signal_64.c`,
//! `struct rt_sigframe`).
//!
//! From low to high addresses: return address, `ucontext`, `siginfo`, then, 64-byte-aligned, the
//! XSAVE image with what Linux says about it in the bytes that FXSAVE leaves to software.

use platform::Registers;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::state::{AltStack, SS_AUTODISARM};
use super::{SaFlags, SigAction, SigInfo, SigSet};

/// `stack_t`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct UserStack {
    /// Lowest address.
    pub sp: u64,
    /// `SS_*`
    pub flags: u32,
    pad: u32,
    /// Bytes.
    pub size: u64,
}

impl UserStack {
    /// As guests see a stack of which `flags` holds.
    pub fn new(sp: u64, flags: u32, size: u64) -> UserStack {
        UserStack { sp, flags, pad: 0, size }
    }
}

/// `struct sigcontext`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
#[allow(missing_docs)] // The names are the kernel's.
pub struct SigContext {
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub di: u64,
    pub si: u64,
    pub bp: u64,
    pub bx: u64,
    pub dx: u64,
    pub ax: u64,
    pub cx: u64,
    pub sp: u64,
    pub ip: u64,
    pub flags: u64,
    pub cs: u16,
    pub gs: u16,
    pub fs: u16,
    pub ss: u16,
    pub err: u64,
    pub trapno: u64,
    pub oldmask: u64,
    pub cr2: u64,
    pub fpstate: u64,
    pub reserved: [u64; 8],
}

/// `struct ucontext`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
#[allow(missing_docs)]
pub struct UContext {
    pub flags: u64,
    pub link: u64,
    pub stack: UserStack,
    pub mcontext: SigContext,
    pub sigmask: SigSet,
}

/// `struct rt_sigframe`, without the extended state.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct RtSigFrame {
    /// Where the handler returns to.
    pub pretcode: u64,
    /// What rt_sigreturn(2) restores.
    pub uc: UContext,
    /// Filled if the handler asked for it.
    pub info: [u8; 128],
}

const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;

const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
const MAGIC2_SIZE: u64 = 4;
/// Where `struct _fpx_sw_bytes` lies in the FXSAVE area.
const SW_BYTES: usize = 464;
/// Size of the FXSAVE area; the XSAVE header follows.
const FXSAVE_SIZE: usize = 512;
const XSAVE_HEADER: usize = 64;
const MXCSR: usize = 24;
const XFEATURE_FPSSE: u64 = 3;
const XFEATURE_PKRU: u64 = 1 << 9;

const RED_ZONE: u64 = 128;
const USER_CS: u64 = 0x33;
const USER_DS: u64 = 0x2b;

const EFLAGS_TF: u64 = 0x100;
const EFLAGS_DF: u64 = 0x400;
const EFLAGS_RF: u64 = 0x1_0000;
/// What rt_sigreturn may change of the flags (`FIX_EFLAGS`).
const EFLAGS_FIX: u64 =
    0x4_0000 | 0x800 | EFLAGS_DF | EFLAGS_TF | 0x80 | 0x40 | 0x10 | 0x4 | 0x1 | EFLAGS_RF;

/// Most bytes a frame takes beyond the red zone (`AT_MINSIGSTKSZ`).
pub fn max_size(xstate_size: usize) -> u64 {
    let all = size_of::<RtSigFrame>() as u64 + xstate_size as u64 + MAGIC2_SIZE + 16 + 64;
    all.next_multiple_of(16)
}

/// What a hardware exception left for `sigcontext`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrapInfo {
    /// Error code.
    pub err: u64,
    /// Vector.
    pub trapno: u64,
    /// Address of the last page fault.
    pub cr2: u64,
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Address of [`RtSigFrame`], which is the handler's stack pointer.
    pub frame: u64,
    /// Address of the extended state.
    pub fpstate: u64,
}

/// Finds the place (`get_sigframe`); `None` if it does not fit on the alternate stack.
pub fn place(rsp: u64, action: &SigAction, stack: &AltStack, xstate_size: usize) -> Option<Place> {
    let mut sp = rsp.wrapping_sub(RED_ZONE);
    let nested = stack.in_use(rsp);
    let mut entering = false;
    if action.flags.contains(SaFlags::ONSTACK) && stack.status(rsp) == 0 {
        sp = stack.sp.wrapping_add(stack.size);
        entering = true;
    }
    let fpstate = sp.wrapping_sub(xstate_size as u64 + MAGIC2_SIZE) & !63;
    let frame = (fpstate.wrapping_sub(size_of::<RtSigFrame>() as u64) & !15).wrapping_sub(8);
    if (nested || entering) && !stack.holds(frame) {
        return None;
    }
    Some(Place { frame, fpstate })
}

/// Everything that a handler is entered with.
pub struct Entry<'a> {
    /// The signal.
    pub info: &'a SigInfo,
    /// Its action.
    pub action: &'a SigAction,
    /// The mask to come back to.
    pub mask: SigSet,
    /// The alternate stack.
    pub stack: &'a AltStack,
    /// The last exception.
    pub trap: &'a TrapInfo,
}

/// Makes the frame and lets `regs` enter the handler (`x64_setup_rt_frame`).
pub fn build(regs: &mut Registers, entry: &Entry<'_>, at: Place) -> RtSigFrame {
    let action = entry.action;
    let frame = RtSigFrame {
        pretcode: action.restorer,
        uc: UContext {
            flags: UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS,
            link: 0,
            // `__save_altstack`: the flags as set, not as in use.
            stack: UserStack::new(entry.stack.sp, entry.stack.flags, entry.stack.size),
            mcontext: SigContext {
                r8: regs.r8,
                r9: regs.r9,
                r10: regs.r10,
                r11: regs.r11,
                r12: regs.r12,
                r13: regs.r13,
                r14: regs.r14,
                r15: regs.r15,
                di: regs.rdi,
                si: regs.rsi,
                bp: regs.rbp,
                bx: regs.rbx,
                dx: regs.rdx,
                ax: regs.rax,
                cx: regs.rcx,
                sp: regs.rsp,
                ip: regs.rip,
                flags: regs.eflags,
                cs: regs.cs as u16,
                gs: 0,
                fs: 0,
                ss: regs.ss as u16,
                err: entry.trap.err,
                trapno: entry.trap.trapno,
                oldmask: entry.mask.0,
                cr2: entry.trap.cr2,
                fpstate: at.fpstate,
                reserved: [0; 8],
            },
            sigmask: entry.mask,
        },
        info: if action.flags.contains(SaFlags::SIGINFO) { entry.info.to_user() } else { [0; 128] },
    };
    regs.rdi = entry.info.signo as u64;
    regs.rax = 0;
    regs.rsi = at.frame + std::mem::offset_of!(RtSigFrame, info) as u64;
    regs.rdx = at.frame + std::mem::offset_of!(RtSigFrame, uc) as u64;
    regs.rip = action.handler;
    regs.rsp = at.frame;
    regs.cs = USER_CS;
    regs.ss = USER_DS;
    regs.eflags &= !(EFLAGS_DF | EFLAGS_RF | EFLAGS_TF);
    frame
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(slot) = image.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

fn get_u32(image: &[u8], at: usize) -> u32 {
    image.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn get_u64(image: &[u8], at: usize) -> u64 {
    image.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Turns an XSAVE image into what lies in the frame (`save_xstate_epilog`).
pub fn image_for_frame(mut image: Vec<u8>, xcr0: u64) -> Vec<u8> {
    let size = image.len() as u32;
    let mut sw = [0u8; 48];
    put(&mut sw, 0, &MAGIC1.to_le_bytes());
    put(&mut sw, 4, &(size + MAGIC2_SIZE as u32).to_le_bytes());
    put(&mut sw, 8, &xcr0.to_le_bytes());
    put(&mut sw, 16, &size.to_le_bytes());
    put(&mut image, SW_BYTES, &sw);
    // So that a restore never leaves x87 and SSE as they are.
    let present = get_u64(&image, FXSAVE_SIZE) | XFEATURE_FPSSE;
    put(&mut image, FXSAVE_SIZE, &present.to_le_bytes());
    image.extend_from_slice(&MAGIC2.to_le_bytes());
    image
}

/// The state that a handler starts with (`fpu__clear_user_states`): everything initial but the
/// protection keys.
pub fn initial_image(now: &[u8]) -> Vec<u8> {
    let mut image = now.to_vec();
    let pkru = get_u64(now, FXSAVE_SIZE) & XFEATURE_PKRU;
    let legacy = image.len().min(FXSAVE_SIZE + XSAVE_HEADER);
    image[..legacy].fill(0);
    put(&mut image, 0, &0x37fu16.to_le_bytes());
    put(&mut image, MXCSR, &0x1f80u32.to_le_bytes());
    put(&mut image, FXSAVE_SIZE, &pkru.to_le_bytes());
    image
}

/// Checks what the guest left in its frame and makes an image of the full size of it
/// (`fpu__restore_sig`). `raw` is what could be read at the frame's `fpstate`: `size` bytes and the
/// trailing magic, or less if the rest is not there. `None` if the frame is bad.
pub fn image_from_frame(raw: &[u8], size: usize, xcr0: u64) -> Option<Vec<u8>> {
    if raw.len() < FXSAVE_SIZE {
        return None;
    }
    let extended = get_u32(raw, SW_BYTES + 4) as usize;
    let stated = get_u32(raw, SW_BYTES + 16) as usize;
    let full = get_u32(raw, SW_BYTES) == MAGIC1
        && stated >= FXSAVE_SIZE + XSAVE_HEADER
        && stated <= size
        && stated <= extended;
    let full = full && raw.len() >= stated + 4 && get_u32(raw, stated) == MAGIC2;
    let mut image = vec![0; size];
    if full {
        image[..stated].copy_from_slice(&raw[..stated]);
        let present = get_u64(raw, FXSAVE_SIZE) & get_u64(raw, SW_BYTES + 8) & xcr0;
        image[FXSAVE_SIZE + 8..FXSAVE_SIZE + XSAVE_HEADER].fill(0);
        put(&mut image, FXSAVE_SIZE, &present.to_le_bytes());
        return Some(image);
    }
    // Without the magic it is an FXSAVE image, and everything else becomes initial.
    image[..FXSAVE_SIZE].copy_from_slice(&raw[..FXSAVE_SIZE]);
    put(&mut image, FXSAVE_SIZE, &XFEATURE_FPSSE.to_le_bytes());
    Some(image)
}

/// Restores the registers of a frame (`restore_sigcontext`). `false` if no program could run with
/// them.
pub fn restore(regs: &mut Registers, uc: &UContext) -> bool {
    let sc = &uc.mcontext;
    let cs = sc.cs as u64 | 3;
    let strict = uc.flags & UC_STRICT_RESTORE_SS != 0;
    let ss = if strict { sc.ss as u64 | 3 } else { USER_DS };
    if cs != USER_CS || ss != USER_DS {
        return false;
    }
    *regs = Registers {
        r15: sc.r15,
        r14: sc.r14,
        r13: sc.r13,
        r12: sc.r12,
        rbp: sc.bp,
        rbx: sc.bx,
        r11: sc.r11,
        r10: sc.r10,
        r9: sc.r9,
        r8: sc.r8,
        rax: sc.ax,
        rcx: sc.cx,
        rdx: sc.dx,
        rsi: sc.si,
        rdi: sc.di,
        orig_rax: u64::MAX,
        rip: sc.ip,
        cs,
        eflags: (regs.eflags & !EFLAGS_FIX) | (sc.flags & EFLAGS_FIX),
        rsp: sc.sp,
        ss,
        ..*regs
    };
    true
}

/// What sigaltstack(2) and rt_sigreturn(2) accept as flags.
pub const SS_FLAGS: u32 = super::state::SS_ONSTACK | super::state::SS_DISABLE | SS_AUTODISARM;

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn layout_is_the_kernels() {
        assert_eq!(size_of::<SigContext>(), 256);
        assert_eq!(size_of::<UContext>(), 304);
        assert_eq!(size_of::<RtSigFrame>(), 440);
        assert_eq!(offset_of!(UContext, mcontext), offset_of!(libc::ucontext_t, uc_mcontext));
        assert_eq!(offset_of!(UContext, stack), offset_of!(libc::ucontext_t, uc_stack));
        assert_eq!(offset_of!(UContext, sigmask), offset_of!(libc::ucontext_t, uc_sigmask));
        let reg = |n: i32| n as usize * 8;
        assert_eq!(offset_of!(SigContext, r8), reg(libc::REG_R8));
        assert_eq!(offset_of!(SigContext, di), reg(libc::REG_RDI));
        assert_eq!(offset_of!(SigContext, sp), reg(libc::REG_RSP));
        assert_eq!(offset_of!(SigContext, ip), reg(libc::REG_RIP));
        assert_eq!(offset_of!(SigContext, flags), reg(libc::REG_EFL));
        assert_eq!(offset_of!(SigContext, cs), reg(libc::REG_CSGSFS));
        assert_eq!(offset_of!(SigContext, err), reg(libc::REG_ERR));
        assert_eq!(offset_of!(SigContext, trapno), reg(libc::REG_TRAPNO));
        assert_eq!(offset_of!(SigContext, cr2), reg(libc::REG_CR2));
    }

    #[test]
    fn frames_are_aligned_and_fit() {
        let action = SigAction { flags: SaFlags::ONSTACK, ..SigAction::default() };
        for rsp in (0x7fff_0000u64..0x7fff_0100).step_by(7) {
            let at = place(rsp, &action, &AltStack::NONE, 2696).unwrap();
            assert_eq!((at.fpstate % 64, (at.frame + 8) % 16), (0, 0));
            assert!(at.fpstate + 2700 <= rsp - 128 && at.frame + 440 <= at.fpstate);
        }
        let stack = AltStack { sp: 0x10000, flags: 0, size: 0x2000 };
        let at = place(0x7fff_0000, &action, &stack, 2696).unwrap();
        assert!(stack.holds(at.frame));
        let small = AltStack { size: 2048, ..stack };
        assert_eq!(place(0x7fff_0000, &action, &small, 2696), None);
        // Nested: goes on below, until the stack is full.
        assert!(place(at.frame - 0x100, &action, &stack, 2696).is_some());
        assert_eq!(place(0x10800, &action, &stack, 2696), None);
    }

    #[test]
    fn registers_survive_the_round_trip() {
        let before = Registers {
            rax: 1,
            rbx: 2,
            rcx: 3,
            rdx: 4,
            rsi: 5,
            rdi: 6,
            rbp: 7,
            rsp: 0x7000,
            r8: 8,
            r9: 9,
            r10: 10,
            r11: 11,
            r12: 12,
            r13: 13,
            r14: 14,
            r15: 15,
            rip: 0x400000,
            eflags: 0x246 | EFLAGS_DF,
            cs: USER_CS,
            ss: USER_DS,
            fs_base: 99,
            orig_rax: u64::MAX,
            ..Registers::default()
        };
        let action = SigAction {
            handler: 0x1234,
            restorer: 0x5678,
            flags: SaFlags::SIGINFO | SaFlags::RESTORER,
            ..SigAction::default()
        };
        let at = place(before.rsp, &action, &AltStack::NONE, 832).unwrap();
        let mut regs = before;
        let info = SigInfo::kernel(10);
        let entry = Entry {
            info: &info,
            action: &action,
            mask: SigSet(5),
            stack: &AltStack::NONE,
            trap: &TrapInfo::default(),
        };
        let frame = build(&mut regs, &entry, at);
        assert_eq!((regs.rip, regs.rdi, regs.rsp), (0x1234, 10, at.frame));
        assert_eq!((regs.rsi, regs.rdx), (at.frame + 312, at.frame + 8));
        assert_eq!(regs.eflags & EFLAGS_DF, 0);
        assert_eq!((frame.pretcode, frame.uc.sigmask), (0x5678, SigSet(5)));
        assert!(restore(&mut regs, &frame.uc));
        assert_eq!(regs, before);
        let mut bad = frame.uc;
        bad.mcontext.cs = 0x23;
        assert!(!restore(&mut regs, &bad));
    }

    #[test]
    fn extended_state_round_trip_and_fallbacks() {
        let mut image = vec![0xaa; 832];
        image[512..576].fill(0);
        image[512] = 7;
        let framed = image_for_frame(image.clone(), 7);
        assert_eq!(framed.len(), 836);
        let back = image_from_frame(&framed, 832, 7).unwrap();
        assert_eq!(&back[..464], &image[..464]);
        assert_eq!(&back[512..], &image[512..]);
        // A broken magic: only the legacy part counts.
        let mut broken = framed.clone();
        broken[832] ^= 1;
        let back = image_from_frame(&broken, 832, 7).unwrap();
        assert_eq!((back[512], back[600]), (3, 0));
        assert!(image_from_frame(&framed[..500], 832, 7).is_none());
        assert!(image_from_frame(&framed[..600], 832, 7).is_some());
        let init = initial_image(&image);
        assert_eq!((get_u32(&init, MXCSR), init[512]), (0x1f80, 0));
    }
}
