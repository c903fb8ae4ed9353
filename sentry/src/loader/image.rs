//! Puts a program into a new address space (`load_elf_binary`).

use std::sync::Arc;

use abi::Errno;
use platform::Registers;

use super::elf::{Headers, PHDR_SIZE, ProgramHeader};
use super::{ExecFile, LoadError, Prepared, auxv, stack};
use crate::mm::{
    ExecInfo, MemoryManager, MmContext, MmLimits, MmapRequest, PAGE, TASK_SIZE, page_down, page_up,
    random_u64,
};

/// Who the program will be, for the auxiliary vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // The names are credentials(7)'s.
pub struct Identity {
    pub uid: u32,
    pub euid: u32,
    pub gid: u32,
    pub egid: u32,
    /// `AT_SECURE`: the program got rights that its caller does not have.
    pub secure: bool,
}

/// What of personality(2) counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Personality {
    /// `ADDR_NO_RANDOMIZE`.
    pub no_randomize: bool,
    /// `ADDR_COMPAT_LAYOUT`.
    pub compat_layout: bool,
}

/// A program that is ready to run.
pub struct Loaded {
    /// Its memory.
    pub mm: Arc<MemoryManager>,
    /// The registers of its first thread.
    pub registers: Registers,
}

/// How much a stack starts with beyond what is on it (`stack_expand`).
const STACK_EXPAND: u64 = 128 << 10;
/// `__USER_CS`, `__USER_DS`.
const USER_CS: u64 = 0x33;
const USER_DS: u64 = 0x2b;
/// Interrupts enabled: `EFLAGS` of a new program.
const EFLAGS: u64 = 0x200;

/// Where an ELF file was put.
struct Image {
    /// What is added to the file's addresses.
    bias: u64,
    /// Start of the lowest segment.
    base: u64,
    /// `elf_brk`: end of the highest segment.
    end: u64,
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
}

impl Prepared {
    /// Makes the address space.
    pub fn load(
        &self,
        ctx: &Arc<MmContext>,
        limits: &MmLimits,
        identity: &Identity,
        personality: Personality,
    ) -> Result<Loaded, LoadError> {
        let random = !personality.no_randomize;
        // What goes wrong from here on does so after Linux has given the old program up, except for
        // memory, which it allocates before.
        let mm = MemoryManager::new(ctx, limits, random, personality.compat_layout)
            .map_err(LoadError::Errno)?;
        self.fill(&mm, limits, identity, random)
            .map(|registers| Loaded { mm, registers })
            .map_err(LoadError::Fatal)
    }

    fn fill(
        &self,
        mm: &MemoryManager,
        limits: &MmLimits,
        identity: &Identity,
        random: bool,
    ) -> Result<Registers, Errno> {
        let gap = if random { random_u64() % 8192 } else { 0 };
        let needed = stack::size(&self.filename, &self.env, &self.args, gap)?;
        let length = page_up(needed).ok_or(Errno::E2BIG)? + STACK_EXPAND;
        let limit = page_down(limits.stack).max(page_up(needed).ok_or(Errno::E2BIG)?);
        let stack_limits = MmLimits { stack: u64::MAX, ..*limits };
        let top = mm.map_stack(length.min(limit), self.headers.exec_stack(), &stack_limits)?;

        let image =
            map_program(mm, limits, &*self.file, &self.headers, self.interpreter.is_some())?;
        let brk = if self.headers.dynamic && self.interpreter.is_none() && random {
            // A static PIE sits in the mmap area, where its heap could not grow.
            mm.pie_base()
        } else {
            page_up(image.end).ok_or(Errno::EINVAL)?
        };
        let entry = self.headers.entry.wrapping_add(image.bias);
        let (start, interpreter_base) = match &self.interpreter {
            None => (entry, 0),
            Some((file, headers)) => {
                let interpreter = map_interpreter(mm, limits, &**file, headers)?;
                // Its mappings keep it open; only the program itself is busy.
                file.description().iter().for_each(|file| file.set_hold(None));
                (headers.entry.wrapping_add(interpreter.bias), interpreter.bias)
            }
        };
        if start >= TASK_SIZE {
            return Err(Errno::EINVAL);
        }
        let vdso = mm.map_vdso()?;

        let places = stack::Layout::new(top, &self.filename, &self.env, &self.args, gap);
        let places = places.ok_or(Errno::E2BIG)?;
        let [minimum_stack, hwcap, hwcap2, page_size] = auxv::machine();
        let phdr = self.headers.phdr_addr().map_or(0, |addr| addr.wrapping_add(image.bias));
        let mut auxv: Vec<(u64, u64)> = Vec::with_capacity(24);
        auxv.extend(vdso.map(|vdso| (libc::AT_SYSINFO_EHDR, vdso)));
        auxv.extend([
            minimum_stack,
            hwcap,
            page_size,
            (libc::AT_CLKTCK, auxv::CLOCK_TICKS),
            (libc::AT_PHDR, phdr),
            (libc::AT_PHENT, PHDR_SIZE as u64),
            (libc::AT_PHNUM, self.headers.program.len() as u64),
            (libc::AT_BASE, interpreter_base),
            (libc::AT_FLAGS, 0),
            (libc::AT_ENTRY, entry),
            (libc::AT_UID, identity.uid.into()),
            (libc::AT_EUID, identity.euid.into()),
            (libc::AT_GID, identity.gid.into()),
            (libc::AT_EGID, identity.egid.into()),
            (libc::AT_SECURE, identity.secure.into()),
            (libc::AT_RANDOM, places.random),
            hwcap2,
            (libc::AT_EXECFN, places.filename),
            (libc::AT_PLATFORM, places.platform),
            (libc::AT_NULL, 0),
        ]);
        let write = |at, bytes: &[u8]| mm.write_bytes(at, bytes);
        let sp = places.fill(&self.filename, &self.env, &self.args, &auxv, write)?;

        mm.set_brk(brk);
        let strings_end = |start: u64, len: usize| start..start + len as u64;
        mm.update_exec_info(|info| {
            *info = ExecInfo {
                start_code: image.start_code,
                end_code: image.end_code,
                start_data: image.start_data,
                end_data: image.end_data,
                start_stack: sp,
                arg: strings_end(places.args, self.args.as_bytes().len()),
                env: strings_end(places.env, self.env.as_bytes().len()),
                auxv,
                exe: self.file.description(),
            };
        });
        Ok(Registers {
            rip: start,
            rsp: sp,
            cs: USER_CS,
            ss: USER_DS,
            eflags: EFLAGS,
            orig_rax: u64::MAX,
            ..Registers::default()
        })
    }
}

/// Maps the program itself.
fn map_program(
    mm: &MemoryManager,
    limits: &MmLimits,
    file: &dyn ExecFile,
    headers: &Headers,
    has_interpreter: bool,
) -> Result<Image, Errno> {
    let (low, size) = headers.span().ok_or(Errno::EINVAL)?;
    let bias = if !headers.dynamic {
        0
    } else {
        let align = headers.alignment();
        let base = if has_interpreter { mm.pie_base() } else { find_aligned(mm, size, align)? };
        page_down(base & !(align - 1)).wrapping_sub(low)
    };
    map_segments(mm, limits, file, headers, bias)
}

/// `load_elf_interp`.
fn map_interpreter(
    mm: &MemoryManager,
    limits: &MmLimits,
    file: &dyn ExecFile,
    headers: &Headers,
) -> Result<Image, Errno> {
    let (low, size) = headers.span().ok_or(Errno::EINVAL)?;
    let bias = match headers.dynamic {
        true => find_aligned(mm, size, headers.alignment())?.wrapping_sub(low),
        false => 0,
    };
    map_segments(mm, limits, file, headers, bias)
}

fn find_aligned(mm: &MemoryManager, size: u64, align: u64) -> Result<u64, Errno> {
    let room = size.checked_add(align - PAGE).ok_or(Errno::ENOMEM)?;
    let found = mm.find_free(room)?;
    found.checked_next_multiple_of(align).ok_or(Errno::ENOMEM)
}

fn map_segments(
    mm: &MemoryManager,
    limits: &MmLimits,
    file: &dyn ExecFile,
    headers: &Headers,
    bias: u64,
) -> Result<Image, Errno> {
    let mut image = Image {
        bias,
        base: u64::MAX,
        end: 0,
        start_code: u64::MAX,
        end_code: 0,
        start_data: 0,
        end_data: 0,
    };
    for load in headers.loads() {
        // `span` has checked that sizes make sense; with the bias they must as well.
        load.end().ok_or(Errno::EINVAL)?;
        let start = load.vaddr.wrapping_add(bias);
        let end = start.checked_add(load.mem_size).ok_or(Errno::EINVAL)?;
        if end > TASK_SIZE {
            return Err(Errno::EINVAL);
        }
        map_segment(mm, limits, file, load, start, image.base == u64::MAX)?;
        let data_end = start + load.file_size;
        image.base = image.base.min(page_down(start));
        image.end = image.end.max(end);
        image.start_code = image.start_code.min(start);
        image.start_data = image.start_data.max(start);
        if load.prot() & libc::PROT_EXEC != 0 {
            image.end_code = image.end_code.max(data_end);
        }
        image.end_data = image.end_data.max(data_end);
    }
    Ok(image)
}

/// `elf_load`: the part that is in the file, the zeroes behind it in its last page, and anonymous
/// memory for the rest.
fn map_segment(
    mm: &MemoryManager,
    limits: &MmLimits,
    file: &dyn ExecFile,
    load: &ProgramHeader,
    start: u64,
    first: bool,
) -> Result<(), Errno> {
    let prot = load.prot();
    let page = page_down(start);
    let skip = start - page;
    // Later segments may overlap earlier ones, as on Linux; the first must not hit anything.
    let fixed = if first { libc::MAP_FIXED_NOREPLACE } else { libc::MAP_FIXED };
    let end = start + load.mem_size;
    let file_end = start + load.file_size;
    let mut mapped_end = page;
    if load.file_size > 0 {
        let offset = load.offset.checked_sub(skip).ok_or(Errno::EINVAL)?;
        let request = MmapRequest {
            addr: page,
            len: load.file_size + skip,
            prot: prot as u32,
            flags: (libc::MAP_PRIVATE | fixed) as u32,
            offset,
            file: Some(file.mapping()),
        };
        mm.mmap(&request, limits)?;
        mapped_end = page_up(file_end).ok_or(Errno::EINVAL)?;
        if end > file_end && mapped_end > file_end && prot & libc::PROT_WRITE != 0 {
            let tail = (mapped_end - file_end) as usize;
            if mm.zero_out(file_end, tail) < tail {
                return Err(Errno::EFAULT);
            }
        }
    }
    let bss_end = page_up(end).ok_or(Errno::EINVAL)?;
    if bss_end > mapped_end {
        let fixed = if load.file_size > 0 { libc::MAP_FIXED } else { fixed };
        let request = MmapRequest::anonymous(mapped_end, bss_end - mapped_end, prot, fixed);
        mm.mmap(&request, limits)?;
    }
    Ok(())
}
