//! ELF headers, as far as executing needs them (`fs/binfmt_elf.c`). All arithmetic is checked: the
//! file is the guest's.

use abi::Errno;

use super::ExecFile;
use crate::mm::{PAGE, TASK_SIZE, page_down, page_up};

/// Size of `Elf64_Ehdr`.
pub(super) const EHDR_SIZE: usize = 64;
/// Size of `Elf64_Phdr`.
pub(super) const PHDR_SIZE: usize = 56;
/// Most bytes of program headers.
const MAX_PHDRS: usize = 65536;
/// Longest path of an interpreter, with its NUL.
const MAX_INTERPRETER: u64 = 4096;

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PF_X: u32 = 1;

/// No ELF file for this machine.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotElf;

/// `Elf64_Phdr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProgramHeader {
    kind: u32,
    flags: u32,
    pub(super) offset: u64,
    pub(super) vaddr: u64,
    pub(super) file_size: u64,
    pub(super) mem_size: u64,
    align: u64,
}

/// What counts of an ELF file's headers.
#[derive(Debug)]
pub(super) struct Headers {
    /// Position-independent (`ET_DYN`).
    pub(super) dynamic: bool,
    /// `e_entry`.
    pub(super) entry: u64,
    /// `e_phoff`.
    phoff: u64,
    /// The program headers.
    pub(super) program: Vec<ProgramHeader>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}

impl ProgramHeader {
    fn parse(bytes: &[u8]) -> Option<ProgramHeader> {
        Some(ProgramHeader {
            kind: u32_at(bytes, 0)?,
            flags: u32_at(bytes, 4)?,
            offset: u64_at(bytes, 8)?,
            vaddr: u64_at(bytes, 16)?,
            file_size: u64_at(bytes, 32)?,
            mem_size: u64_at(bytes, 40)?,
            align: u64_at(bytes, 48)?,
        })
    }

    /// `PROT_*` of a segment.
    pub(super) fn prot(&self) -> i32 {
        let bit = |flag: u32, prot| if self.flags & flag != 0 { prot } else { 0 };
        bit(4, libc::PROT_READ) | bit(2, libc::PROT_WRITE) | bit(PF_X, libc::PROT_EXEC)
    }

    pub(super) fn is_load(&self) -> bool {
        self.kind == PT_LOAD
    }

    /// One past the last byte in memory, if the sizes make sense.
    pub(super) fn end(&self) -> Option<u64> {
        if self.file_size > self.mem_size || self.mem_size > TASK_SIZE {
            return None;
        }
        self.vaddr.checked_add(self.mem_size).filter(|end| *end <= TASK_SIZE)
    }
}

impl Headers {
    /// Reads the headers of a file that starts with `head`.
    pub(super) fn read(file: &dyn ExecFile, head: &[u8]) -> Result<Headers, NotElf> {
        Self::parse_header(head)
            .and_then(|(mut headers, count)| {
                let size =
                    count.checked_mul(PHDR_SIZE).filter(|size| (1..=MAX_PHDRS).contains(size))?;
                let mut bytes = vec![0; size];
                if file.read_at(headers.phoff, &mut bytes).ok()? < size {
                    return None;
                }
                let parsed = bytes.chunks_exact(PHDR_SIZE).map(ProgramHeader::parse);
                headers.program = parsed.collect::<Option<_>>()?;
                Some(headers)
            })
            .ok_or(NotElf)
    }

    /// The ELF header, and the number of program headers. As Linux does, only looks at what it
    /// needs.
    fn parse_header(head: &[u8]) -> Option<(Headers, usize)> {
        let kind = u16_at(head, 16)?;
        let valid = head.starts_with(b"\x7fELF")
            && matches!(kind, ET_EXEC | ET_DYN)
            && u16_at(head, 18)? == EM_X86_64
            && usize::from(u16_at(head, 54)?) == PHDR_SIZE;
        let headers = Headers {
            dynamic: kind == ET_DYN,
            entry: u64_at(head, 24)?,
            phoff: u64_at(head, 32)?,
            program: Vec::new(),
        };
        valid.then_some((headers, usize::from(u16_at(head, 56)?)))
    }

    /// The path in the first `PT_INTERP`. `ENOEXEC` if it is malformed, `EIO` if it is cut off.
    pub(super) fn interpreter(&self, file: &dyn ExecFile) -> Result<Option<Vec<u8>>, Errno> {
        let Some(header) = self.program.iter().find(|header| header.kind == PT_INTERP) else {
            return Ok(None);
        };
        if !(2..=MAX_INTERPRETER).contains(&header.file_size) {
            return Err(Errno::ENOEXEC);
        }
        let mut path = vec![0; header.file_size as usize];
        // An offset beyond what read(2) takes.
        i64::try_from(header.offset).map_err(|_| Errno::EINVAL)?;
        if file.read_at(header.offset, &mut path)? < path.len() {
            return Err(Errno::EIO);
        }
        if path.pop() != Some(0) {
            return Err(Errno::ENOEXEC);
        }
        let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
        path.truncate(end);
        Ok(Some(path))
    }

    /// The segments.
    pub(super) fn loads(&self) -> impl Iterator<Item = &ProgramHeader> {
        self.program.iter().filter(|header| header.is_load())
    }

    /// Whether the stack is to be executable. Without a `PT_GNU_STACK` it is not, on x86-64.
    pub(super) fn exec_stack(&self) -> bool {
        self.program
            .iter()
            .rfind(|header| header.kind == PT_GNU_STACK)
            .is_some_and(|header| header.flags & PF_X != 0)
    }

    /// `maximum_alignment`: the largest power of two that a segment asks for, at least a page.
    pub(super) fn alignment(&self) -> u64 {
        let asked = self.loads().map(|load| load.align).filter(|align| align.is_power_of_two());
        asked.max().unwrap_or(PAGE).max(PAGE)
    }

    /// `total_mapping_size`: the address of the first page, and the bytes from there to the end of
    /// the last segment in whole pages. `None` if there is no segment or the sizes make no sense.
    pub(super) fn span(&self) -> Option<(u64, u64)> {
        let mut span: Option<(u64, u64)> = None;
        for load in self.loads() {
            let (low, high) = (page_down(load.vaddr), load.end()?);
            span = Some(span.map_or((low, high), |(a, b)| (a.min(low), b.max(high))));
        }
        let (low, high) = span?;
        Some((low, page_up(high)?.checked_sub(low).filter(|size| *size > 0)?))
    }

    /// Where the program headers are in memory, before relocation (`AT_PHDR`).
    pub(super) fn phdr_addr(&self) -> Option<u64> {
        let covering = |load: &&ProgramHeader| {
            load.offset <= self.phoff && self.phoff - load.offset < load.file_size
        };
        match self.program.iter().find(|header| header.kind == PT_PHDR) {
            Some(header) => Some(header.vaddr),
            None => {
                let load = self.loads().find(covering)?;
                load.vaddr.checked_add(self.phoff - load.offset)
            }
        }
    }
}
