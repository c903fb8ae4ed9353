//! A platform without guest code: the guest is a script of Rust closures.
//!
//! For the Sentry's own tests, which need neither ptrace nor assembly. A [`Script`] is a list of
//! steps; `rip` says which step is next, so that fork, signal frames and restarts work as they do
//! on a processor: what the Sentry puts into the registers is what happens next. Steps touch guest
//! memory through [`Cpu`], which obeys the mappings that the Sentry queued and faults as hardware
//! does.
//!
//! Lock order: `Space::pages` alone; `Kick::state` alone.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::{
    AddressSpace, Error, Fault, GuestThread, HostCalls, Kicker, MemoryFile, PAGE_SIZE, Platform,
    Prot, Registers, Source, Trap, VdsoImage, usercopy,
};

/// Address of the first step. Step `i` is at `SCRIPT_BASE + i * STEP_LEN`.
pub const SCRIPT_BASE: u64 = 0x1000_0000;
/// Distance between steps: the length of a `syscall` instruction.
pub const STEP_LEN: u64 = 2;

const USER_RANGE: (u64, u64) = (0x1_0000, 0x7fff_ffff_0000);
/// An XSAVE image with x87, SSE and AVX.
const XSTATE_LEN: usize = 832;
const XCR0: u64 = 7;

/// What a step does: it may change registers and memory, and says why it stops. An error is a
/// page fault: `rip` then still points at the step, which is repeated.
pub type Step = Box<dyn Fn(&mut Cpu<'_>) -> Result<Trap, Fault> + Send + Sync>;

/// The guest's program.
#[derive(Default)]
pub struct Script {
    steps: Vec<Step>,
}

impl Script {
    /// An empty script; running it is a general protection fault.
    pub fn new() -> Script {
        Script::default()
    }

    /// Appends a step.
    #[must_use]
    pub fn step(
        mut self,
        step: impl Fn(&mut Cpu<'_>) -> Result<Trap, Fault> + Send + Sync + 'static,
    ) -> Script {
        self.steps.push(Box::new(step));
        self
    }

    /// Appends a system call with fixed arguments.
    #[must_use]
    pub fn syscall(self, nr: u64, args: [u64; 6]) -> Script {
        self.step(move |cpu| Ok(cpu.syscall(nr, args)))
    }
}

/// A guest thread's processor, while it executes a step.
pub struct Cpu<'a> {
    /// The registers; `rip` points at the next step already.
    pub regs: &'a mut Registers,
    space: &'a Space,
    kick: &'a Kick,
}

impl Cpu<'_> {
    /// Enters the Sentry with a system call.
    pub fn syscall(&mut self, nr: u64, args: [u64; 6]) -> Trap {
        let regs = &mut *self.regs;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        (regs.orig_rax, regs.rax) = (nr, -38i64 as u64);
        (regs.rcx, regs.r11) = (regs.rip, regs.eflags);
        Trap::Syscall
    }

    /// Continues with another step.
    pub fn jump(&mut self, step: u64) {
        self.regs.rip = SCRIPT_BASE + step * STEP_LEN;
    }

    /// Computes until somebody kicks this thread.
    pub fn spin(&mut self) -> Trap {
        let mut kicked = self.kick.state.lock();
        while !*kicked {
            self.kick.changed.wait(&mut kicked);
        }
        *kicked = false;
        Trap::Kicked
    }

    /// Reads guest memory.
    ///
    /// # Errors
    /// The fault that the first inaccessible byte causes.
    pub fn load(&self, addr: u64, len: usize) -> Result<Vec<u8>, Fault> {
        let mut out = vec![0; len];
        let mut done = 0;
        self.each_page(addr, len, Prot::READ, |page, skip, n| {
            let ok = page.read(skip, &mut out[done..done + n]);
            done += n;
            ok
        })?;
        Ok(out)
    }

    /// Writes guest memory.
    ///
    /// # Errors
    /// As [`Cpu::load`]; what lies before that byte is written.
    pub fn store(&self, addr: u64, bytes: &[u8]) -> Result<(), Fault> {
        let mut done = 0;
        let write = Prot { read: false, write: true, exec: false };
        self.each_page(addr, bytes.len(), write, |page, skip, n| {
            let ok = page.write(skip, &bytes[done..done + n]);
            done += n;
            ok
        })
    }

    /// Calls `each(page, offset, bytes)`, which says whether the host let it.
    fn each_page(
        &self,
        addr: u64,
        len: usize,
        access: Prot,
        mut each: impl FnMut(&Page, u64, usize) -> bool,
    ) -> Result<(), Fault> {
        let pages = self.space.pages.lock();
        let mut at = addr;
        let end = addr.saturating_add(len as u64);
        while at < end {
            let skip = at % PAGE_SIZE;
            let n = (PAGE_SIZE - skip).min(end - at);
            let fault = Fault { addr: at, access, bus: false };
            let page = pages.get(&(at - skip)).ok_or(fault)?;
            let allowed = if access.write { page.prot.write } else { page.prot.read };
            if !allowed {
                return Err(fault);
            }
            if !each(page, skip, n as usize) {
                return Err(Fault { bus: true, ..fault });
            }
            at += n;
        }
        Ok(())
    }
}

/// The platform.
pub struct MockPlatform {
    file: Arc<MemoryFile>,
    script: Arc<Script>,
}

impl MockPlatform {
    /// A platform whose every guest thread executes `script`, from wherever its `rip` says.
    pub fn new(file: Arc<MemoryFile>, script: Script) -> Arc<MockPlatform> {
        Arc::new(MockPlatform { file, script: Arc::new(script) })
    }
}

impl Platform for MockPlatform {
    fn name(&self) -> &'static str {
        "mock"
    }

    fn host_calls(&self) -> HostCalls {
        HostCalls::NONE
    }

    fn features(&self) -> Vec<String> {
        Vec::new()
    }

    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, Error> {
        Ok(Arc::new(Space {
            file: self.file.clone(),
            script: self.script.clone(),
            pages: Mutex::default(),
        }))
    }

    fn user_range(&self) -> (u64, u64) {
        USER_RANGE
    }

    fn xstate_layout(&self) -> (usize, u64) {
        (XSTATE_LEN, XCR0)
    }

    fn vdso(&self) -> Option<VdsoImage> {
        None
    }
}

/// Commands take effect at once, which the contract allows.
struct Space {
    file: Arc<MemoryFile>,
    script: Arc<Script>,
    pages: Mutex<BTreeMap<u64, Page>>,
}

struct Page {
    prot: Prot,
    backing: Backing,
}

enum Backing {
    /// Address in the Sentry's mapping of the memory file.
    Memory(usize),
    Host {
        source: Source,
    },
}

impl Page {
    fn read(&self, skip: u64, out: &mut [u8]) -> bool {
        match &self.backing {
            // SAFETY: an address in the memory file's mapping, `skip` and the length stay on
            // its page.
            Backing::Memory(at) => unsafe {
                let from = (*at as *const u8).add(skip as usize);
                usercopy::copy_from(out.as_mut_ptr(), from, out.len()) == out.len()
            },
            Backing::Host { source: Source::Host { file, offset, .. } } => {
                let at = (offset + skip) as i64;
                // SAFETY: a system call on a live buffer.
                let n = unsafe {
                    libc::pread(file.as_raw_fd(), out.as_mut_ptr().cast(), out.len(), at)
                };
                // Behind the end of the file its last page reads as zeroes.
                n > 0 || (n == 0 && self.reaches(file.as_raw_fd(), *offset))
            }
            Backing::Host { .. } => false,
        }
    }

    fn write(&self, skip: u64, bytes: &[u8]) -> bool {
        match &self.backing {
            // SAFETY: as in `read`.
            Backing::Memory(at) => unsafe {
                let to = (*at as *mut u8).add(skip as usize);
                usercopy::copy_to(to, bytes.as_ptr(), bytes.len()) == bytes.len()
            },
            Backing::Host { source: Source::Host { file, offset, shared: true } } => {
                let at = (offset + skip) as i64;
                // SAFETY: a system call on a live buffer.
                let n = unsafe {
                    libc::pwrite(file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), at)
                };
                n == bytes.len() as isize
            }
            Backing::Host { .. } => false,
        }
    }

    /// Whether a file reaches into the page at `offset`.
    fn reaches(&self, fd: i32, offset: u64) -> bool {
        // SAFETY: all-zero is a valid stat; the call fills it.
        let size = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            if libc::fstat(fd, &mut stat) == 0 { stat.st_size } else { 0 }
        };
        size as u64 > offset
    }
}

impl AddressSpace for Space {
    fn map(&self, addr: u64, len: u64, prot: Prot, source: Source, _populate: bool) {
        let mut pages = self.pages.lock();
        for at in (0..len).step_by(PAGE_SIZE as usize) {
            let backing = match &source {
                Source::Memory { offset, .. } => {
                    Backing::Memory(self.file.ptr(offset + at) as usize)
                }
                Source::Host { file, offset, shared } => Backing::Host {
                    source: Source::Host {
                        file: file.clone(),
                        offset: offset + at,
                        shared: *shared,
                    },
                },
            };
            pages.insert(addr + at, Page { prot, backing });
        }
    }

    fn unmap(&self, addr: u64, len: u64, keep: Option<Box<dyn Any + Send>>) {
        let mut pages = self.pages.lock();
        let gone: Vec<u64> = pages.range(addr..addr + len).map(|(&at, _)| at).collect();
        for at in gone {
            pages.remove(&at);
        }
        drop(pages);
        drop(keep);
    }

    fn protect(&self, addr: u64, len: u64, prot: Prot) {
        for (_, page) in self.pages.lock().range_mut(addr..addr + len) {
            page.prot = prot;
        }
    }

    fn move_vdso(&self, _vvar_base: u64) {}

    fn unmap_vdso(&self) {}

    fn defer(&self, keep: Box<dyn Any + Send>) {
        drop(keep);
    }

    fn sync(&self) {}

    fn new_thread(self: Arc<Self>) -> Result<Box<dyn GuestThread>, Error> {
        let mut xstate = vec![0; XSTATE_LEN];
        xstate[..2].copy_from_slice(&0x37fu16.to_le_bytes());
        xstate[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        xstate[464..472].copy_from_slice(&XCR0.to_le_bytes());
        xstate[512] = 3;
        Ok(Box::new(Thread { space: self, kick: Arc::default(), xstate }))
    }
}

struct Thread {
    space: Arc<Space>,
    kick: Arc<Kick>,
    xstate: Vec<u8>,
}

impl GuestThread for Thread {
    fn run(&mut self, regs: &mut Registers) -> Result<Trap, Error> {
        if std::mem::take(&mut *self.kick.state.lock()) {
            return Ok(Trap::Kicked);
        }
        let at = regs.rip.wrapping_sub(SCRIPT_BASE);
        let script = self.space.script.clone();
        let step = usize::try_from(at / STEP_LEN).ok().and_then(|i| script.steps.get(i));
        let (Some(step), true) = (step, at.is_multiple_of(STEP_LEN)) else {
            let access = Prot { read: false, write: false, exec: true };
            return Ok(Trap::Fault(Fault { addr: regs.rip, access, bus: false }));
        };
        let here = regs.rip;
        regs.rip += STEP_LEN;
        match step(&mut Cpu { regs, space: &self.space, kick: &self.kick }) {
            Ok(trap) => Ok(trap),
            Err(fault) => {
                regs.rip = here;
                Ok(Trap::Fault(fault))
            }
        }
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        self.kick.clone()
    }

    /// No step reads the counter.
    fn set_tsc(&mut self, _: bool) {}

    fn xstate(&mut self) -> Result<Vec<u8>, Error> {
        Ok(self.xstate.clone())
    }

    fn set_xstate(&mut self, image: &[u8]) -> Result<(), Error> {
        // XSTATE_BV may only name what is enabled; the rest of the header is zero.
        let valid = image.len() == XSTATE_LEN
            && u64::from(image[512]) & !XCR0 == 0
            && image[513..576].iter().all(|&b| b == 0);
        if !valid {
            return Err(Error::host("set_xstate", libc::EINVAL));
        }
        self.xstate.copy_from_slice(image);
        Ok(())
    }
}

#[derive(Default)]
struct Kick {
    state: Mutex<bool>,
    changed: Condvar,
}

impl Kicker for Kick {
    fn kick(&self) {
        *self.state.lock() = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u64 = 0x5000_0000;

    fn start() -> Registers {
        Registers { rip: SCRIPT_BASE, ..Registers::default() }
    }

    #[test]
    fn a_script_calls_faults_and_loops() {
        let file = MemoryFile::new(1 << 20).unwrap();
        let script = Script::new().syscall(39, [1, 2, 3, 4, 5, 6]).step(|cpu| {
            let seen = cpu.load(DATA + PAGE_SIZE - 4, 8)?;
            cpu.store(DATA, &seen)?;
            cpu.jump(0);
            Ok(cpu.syscall(1, [0; 6]))
        });
        let platform = MockPlatform::new(file.clone(), script);
        let space = platform.new_address_space().unwrap();
        let mut thread = space.clone().new_thread().unwrap();
        let mut regs = start();
        assert_eq!(thread.run(&mut regs).unwrap(), Trap::Syscall);
        assert_eq!((regs.orig_rax, regs.r9, regs.rip), (39, 6, SCRIPT_BASE + STEP_LEN));

        let fault = |addr, access| Trap::Fault(Fault { addr, access, bus: false });
        assert_eq!(thread.run(&mut regs).unwrap(), fault(DATA + PAGE_SIZE - 4, Prot::READ));
        let frames = file.allocate(2 * PAGE_SIZE).unwrap();
        // SAFETY: inside the frames.
        unsafe { usercopy::copy_to(frames.ptr().add(4092), [1, 2, 3, 4, 5, 6, 7, 8].as_ptr(), 8) };
        let source = Source::Memory { offset: frames.offset(), shared: false };
        space.map(DATA, PAGE_SIZE, Prot::READ, source.clone(), false);
        assert_eq!(thread.run(&mut regs).unwrap(), fault(DATA + PAGE_SIZE, Prot::READ));
        space.map(DATA, 2 * PAGE_SIZE, Prot::READ, source, false);
        let write = Prot { read: false, write: true, exec: false };
        assert_eq!(thread.run(&mut regs).unwrap(), fault(DATA, write));
        space.protect(DATA, PAGE_SIZE, Prot::READ_WRITE);
        assert_eq!(thread.run(&mut regs).unwrap(), Trap::Syscall);
        assert_eq!(regs.rip, SCRIPT_BASE);
        // SAFETY: inside the frames.
        assert_eq!(unsafe { usercopy::load_u64(frames.ptr()) }, Some(0x0807_0605_0403_0201));

        regs.rip = SCRIPT_BASE + 2 * STEP_LEN;
        assert!(matches!(thread.run(&mut regs).unwrap(), Trap::Fault(f) if f.access.exec));
    }

    #[test]
    fn kicks_arrive_before_and_during_a_run() {
        let file = MemoryFile::new(1 << 20).unwrap();
        let platform = MockPlatform::new(file, Script::new().step(|cpu| Ok(cpu.spin())));
        let mut thread = platform.new_address_space().unwrap().new_thread().unwrap();
        let kicker = thread.kicker();
        kicker.kick();
        let mut regs = start();
        assert_eq!(thread.run(&mut regs).unwrap(), Trap::Kicked);
        assert_eq!(regs, start());
        let other = std::thread::spawn(move || kicker.kick());
        assert_eq!(thread.run(&mut regs).unwrap(), Trap::Kicked);
        other.join().unwrap();
    }

    #[test]
    fn a_malformed_state_is_refused() {
        let file = MemoryFile::new(1 << 20).unwrap();
        let platform = MockPlatform::new(file, Script::new());
        let mut thread = platform.new_address_space().unwrap().new_thread().unwrap();
        let image = thread.xstate().unwrap();
        thread.set_xstate(&image).unwrap();
        let mut bad = image.clone();
        bad[512] = 0xff;
        assert!(thread.set_xstate(&bad).is_err());
        assert!(thread.set_xstate(&image[1..]).is_err());
        assert_eq!(thread.xstate().unwrap(), image);
    }
}
