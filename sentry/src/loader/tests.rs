//! Tests of loading: real programs of the host, made-up ones, and broken ones.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use abi::Errno;
use proptest::prelude::*;

use super::*;
use crate::mm::testing::context;
use crate::mm::{
    Extent, HostFile, MapFault, Mappable, MappingRegistry, MemoryManager, MmLimits, PAGE,
    Translation, VmFlags,
};

struct HostProgram {
    file: File,
    object: Arc<HostObject>,
}

struct HostObject {
    file: Arc<HostFile>,
    mappings: MappingRegistry,
}

impl Mappable for HostObject {
    fn translate(&self, _: u64, optional: Range<u64>) -> Result<Translation, MapFault> {
        let offset = optional.start;
        Ok(Translation { range: optional, extent: Extent::Host(self.file.clone(), offset) })
    }
    fn mappings(&self) -> &MappingRegistry {
        &self.mappings
    }
    fn size(&self) -> u64 {
        self.file.size()
    }
}

impl ExecFile for HostProgram {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) => return Err(Errno::EIO),
            }
        }
        Ok(done)
    }
    fn mapping(&self) -> FileMapping {
        FileMapping {
            object: Ok(self.object.clone()),
            file: None,
            readable: true,
            writable: false,
            append_only: false,
            noexec: false,
            area: None,
        }
    }
    fn description(&self) -> Option<Arc<FileDescription>> {
        None
    }
}

fn program(file: File) -> Arc<dyn ExecFile> {
    assert!(file.as_raw_fd() >= 0);
    let fd = Arc::new(OwnedFd::from(file.try_clone().unwrap()));
    let object = HostObject { file: HostFile::new(fd, false), mappings: MappingRegistry::new() };
    Arc::new(HostProgram { file, object: Arc::new(object) })
}

fn bytes(content: &[u8]) -> Arc<dyn ExecFile> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    program(file)
}

/// Opens made-up files, and else the host's.
#[derive(Default)]
struct Files(HashMap<Vec<u8>, Vec<u8>>);

impl Opener for Files {
    fn open_exec(&self, path: &[u8]) -> Result<Arc<dyn ExecFile>, Errno> {
        if let Some(content) = self.0.get(path) {
            return Ok(bytes(content));
        }
        let path = std::str::from_utf8(path).map_err(|_| Errno::ENOENT)?;
        File::open(path).map(program).map_err(|_| Errno::ENOENT)
    }
}

fn strings(list: &[&str]) -> Strings {
    Strings::new(list.iter().map(|s| s.as_bytes())).unwrap()
}

fn prepare_bytes(files: &Files, content: &[u8]) -> Result<Prepared, Errno> {
    let (args, env) = (strings(&["arg0", "arg1"]), strings(&["A=1"]));
    prepare(files, bytes(content), b"/path", false, args, env, 8 << 20)
}

fn load(prepared: &Prepared) -> Result<Loaded, LoadError> {
    let ctx = context(64 << 20);
    let identity = Identity { uid: 1, euid: 2, gid: 3, egid: 4, secure: true };
    prepared.load(&ctx, &MmLimits::default(), &identity, Personality::default())
}

fn word(mm: &MemoryManager, addr: u64) -> u64 {
    mm.read_obj(addr).unwrap()
}

fn auxv(mm: &MemoryManager) -> HashMap<u64, u64> {
    mm.exec_info().auxv.into_iter().collect()
}

/// A header of an ELF file.
#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    vaddr: u64,
    file_size: u64,
    mem_size: u64,
}

const RX: u32 = 5;
const RW: u32 = 6;

fn segment(flags: u32, offset: u64, vaddr: u64, file_size: u64, mem_size: u64) -> Segment {
    Segment { kind: 1, flags, offset, vaddr, file_size, mem_size }
}

/// An ELF file of `size` bytes, filled up with `b'x'`.
fn elf(kind: u16, entry: u64, segments: &[Segment], size: usize) -> Vec<u8> {
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(16, 0);
    out.extend(kind.to_le_bytes());
    out.extend(62u16.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    for word in [entry, 64, 0] {
        out.extend(word.to_le_bytes());
    }
    out.extend(0u32.to_le_bytes());
    for half in [64u16, 56, segments.len() as u16, 64, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    for s in segments {
        out.extend(s.kind.to_le_bytes());
        out.extend(s.flags.to_le_bytes());
        for word in [s.offset, s.vaddr, s.vaddr, s.file_size, s.mem_size, PAGE] {
            out.extend(word.to_le_bytes());
        }
    }
    if out.len() < size {
        out.resize(size, b'x');
    }
    out
}

fn static_program() -> Vec<u8> {
    let segments =
        [segment(RX, 0, 0x40_0000, 0x1000, 0x1000), segment(RW, 0x1010, 0x40_2010, 0x100, 0x5000)];
    elf(2, 0x40_0040, &segments, 0x2000)
}

#[test]
fn a_static_program() {
    let prepared = prepare_bytes(&Files::default(), &static_program()).unwrap();
    let loaded = load(&prepared).unwrap();
    let mm = &*loaded.mm;
    assert_eq!(loaded.registers.rip, 0x40_0040);
    let mut data = [0; 0x108];
    mm.read_bytes(0x40_2008, &mut data).unwrap();
    assert!(data.iter().all(|byte| *byte == b'x'));
    // Behind the file's part everything is zero, to the end of the bss.
    let mut bss = vec![1; 0x4f00];
    mm.read_bytes(0x40_2110, &mut bss).unwrap();
    assert!(bss.iter().all(|byte| *byte == 0));
    assert_eq!(mm.area_at(0x40_7fff).unwrap().1 & VmFlags::ACCESS, VmFlags::READ | VmFlags::WRITE);
    assert!(mm.area_at(0x40_8000).is_none());
    assert_eq!(mm.area_at(0x40_0000).unwrap().1 & VmFlags::ACCESS, VmFlags::READ | VmFlags::EXEC);
    assert!(mm.heap().start >= 0x40_8000);
    let info = mm.exec_info();
    assert_eq!((info.start_code, info.end_code), (0x40_0000, 0x40_1000));
    assert_eq!((info.start_data, info.end_data), (0x40_2010, 0x40_2110));
}

#[test]
fn the_initial_stack() {
    let prepared = prepare_bytes(&Files::default(), &static_program()).unwrap();
    let loaded = load(&prepared).unwrap();
    let mm = &*loaded.mm;
    let sp = loaded.registers.rsp;
    assert_eq!(sp % 16, 0);
    let text = |addr| mm.copy_in_cstr(addr, 4096).unwrap();
    assert_eq!(word(mm, sp), 2);
    assert_eq!((text(word(mm, sp + 8)), text(word(mm, sp + 16))), (b"arg0".into(), b"arg1".into()));
    assert_eq!((word(mm, sp + 24), word(mm, sp + 40)), (0, 0));
    assert_eq!(text(word(mm, sp + 32)), b"A=1");
    let mut at = sp + 48;
    let mut found = HashMap::new();
    loop {
        let (key, value) = (word(mm, at), word(mm, at + 8));
        found.insert(key, value);
        at += 16;
        if key == libc::AT_NULL {
            break;
        }
    }
    assert_eq!(found, auxv(mm));
    let ids = [libc::AT_UID, libc::AT_EUID, libc::AT_GID, libc::AT_EGID, libc::AT_SECURE];
    assert_eq!(ids.map(|id| found[&id]), [1, 2, 3, 4, 1]);
    assert_eq!((found[&libc::AT_PHDR], found[&libc::AT_PHNUM]), (0x40_0040, 2));
    assert_eq!((found[&libc::AT_ENTRY], found[&libc::AT_BASE]), (0x40_0040, 0));
    assert_eq!(text(found[&libc::AT_EXECFN]), b"/path");
    assert_eq!(text(found[&libc::AT_PLATFORM]), b"x86_64");
    let mut random = [0; 16];
    mm.read_bytes(found[&libc::AT_RANDOM], &mut random).unwrap();
    assert_ne!(random, [0; 16]);
    let info = mm.exec_info();
    assert_eq!(info.arg.end - info.arg.start, 10);
    assert_eq!((text(info.arg.start), text(info.env.start)), (b"arg0".into(), b"A=1".into()));
    let (stack, flags) = mm.area_at(sp).unwrap();
    assert!(flags.contains(VmFlags::GROWSDOWN) && !flags.contains(VmFlags::EXEC));
    assert_eq!(word(mm, stack.end - 8), 0);
}

#[test]
fn a_dynamic_program_of_the_host() {
    let files = Files::default();
    let file = files.open_exec(b"/bin/true").unwrap();
    let args = strings(&["true"]);
    let prepared =
        prepare(&files, file, b"/bin/true", false, args, Strings::default(), 8 << 20).unwrap();
    let loaded = load(&prepared).unwrap();
    let mm = &*loaded.mm;
    let vector = auxv(mm);
    let base = vector[&libc::AT_BASE];
    assert_ne!(base, 0);
    let mut magic = [0; 4];
    mm.read_bytes(base, &mut magic).unwrap();
    assert_eq!(&magic, b"\x7fELF");
    let code = |addr| mm.area_at(addr).unwrap().1.contains(VmFlags::EXEC);
    assert!(code(loaded.registers.rip) && code(vector[&libc::AT_ENTRY]));
    assert!(mm.area_at(vector[&libc::AT_PHDR]).is_some());
    // ASLR: another run has other addresses.
    let again = load(&prepared).unwrap();
    assert_ne!(again.registers.rsp, loaded.registers.rsp);
    assert_ne!(auxv(&again.mm)[&libc::AT_ENTRY], vector[&libc::AT_ENTRY]);
}

#[test]
fn a_static_pie() {
    let segments = [segment(RX, 0, 0, 0x1000, 0x1000), segment(RW, 0x1000, 0x3000, 0x800, 0x800)];
    let content = elf(3, 0x40, &segments, 0x2000);
    let loaded = load(&prepare_bytes(&Files::default(), &content).unwrap()).unwrap();
    let base = loaded.registers.rip - 0x40;
    assert_eq!(base % PAGE, 0);
    assert_eq!(loaded.mm.copy_in(base + 0x37ff, &mut [0]), 1);
    assert!(loaded.mm.area_at(base + 0x2000).is_none());
    assert!(!loaded.mm.heap().contains(&base) && loaded.mm.heap().start != 0);
}

#[test]
fn scripts() {
    let mut files = Files::default();
    files.0.insert(b"/interp".to_vec(), static_program());
    let prepared = prepare_bytes(&files, b"#! /interp  -x y \nrest").unwrap();
    let loaded = load(&prepared).unwrap();
    let info = loaded.mm.exec_info();
    let mut text = vec![0; (info.arg.end - info.arg.start) as usize];
    loaded.mm.read_bytes(info.arg.start, &mut text).unwrap();
    assert_eq!(text, b"/interp\0-x y\0/path\0arg1\0");
    // AT_EXECFN stays the script.
    assert_eq!(prepared.filename, b"/path");
    for n in 0..8 {
        let (name, next) = (format!("/s{n}"), format!("#!/s{}\n", n + 1));
        files.0.insert(name.into_bytes(), next.into_bytes());
    }
    files.0.insert(b"/s5".to_vec(), static_program());
    assert!(prepare_bytes(&files, b"#!/s1\n").is_ok());
    assert_eq!(prepare_bytes(&files, b"#!/s0\n").err(), Some(Errno::ELOOP));
    assert_eq!(prepare_bytes(&files, b"#!/none\n").err(), Some(Errno::ENOENT));
    let args = strings(&["x"]);
    let script = prepare(&files, bytes(b"#!/interp\n"), b"/p", true, args, strings(&[]), 8 << 20);
    assert_eq!(script.err(), Some(Errno::ENOENT));
}

#[test]
fn what_is_no_program() {
    let files = Files::default();
    let check = |content: &[u8]| prepare_bytes(&files, content).err();
    assert_eq!(check(b""), Some(Errno::ENOEXEC));
    assert_eq!(check(b"hello"), Some(Errno::ENOEXEC));
    assert_eq!(check(b"\x7fELF"), Some(Errno::ENOEXEC));
    let good = static_program();
    let with = |at: usize, byte| {
        let mut content = good.clone();
        content[at] = byte;
        check(&content)
    };
    assert_eq!(with(16, 1), Some(Errno::ENOEXEC));
    assert_eq!(with(18, 3), Some(Errno::ENOEXEC));
    assert_eq!(with(54, 57), Some(Errno::ENOEXEC));
    assert_eq!(with(56, 0), Some(Errno::ENOEXEC));
    assert_eq!(with(34, 0xff), Some(Errno::ENOEXEC));
}

#[test]
fn interpreters() {
    let with = |path: &[u8], size: u64| {
        let interp = Segment { kind: 3, ..segment(4, 0x1000, 0, size, size) };
        let load = segment(RX, 0, 0, 0x1000, 0x1000);
        let mut content = elf(3, 0, &[interp, load], 0x1000);
        content.extend(path);
        content
    };
    let mut files = Files::default();
    files.0.insert(b"/text".to_vec(), vec![b't'; 100]);
    files.0.insert(b"/short".to_vec(), b"\x7fELF".to_vec());
    let check = |path: &[u8], size| prepare_bytes(&files, &with(path, size)).err();
    assert_eq!(check(b"/none\0", 6), Some(Errno::ENOENT));
    assert_eq!(check(b"/text\0", 6), Some(Errno::ELIBBAD));
    assert_eq!(check(b"/short\0", 7), Some(Errno::EIO));
    assert_eq!(check(b"/text", 5), Some(Errno::ENOEXEC));
    assert_eq!(check(b"\0", 1), Some(Errno::ENOEXEC));
    assert_eq!(check(b"/text\0", 4097), Some(Errno::ENOEXEC));
    assert_eq!(check(b"/text\0", 2000), Some(Errno::EIO));
}

#[test]
fn impossible_segments_are_fatal() {
    let check = |segments: &[Segment]| {
        let content = elf(2, 0x40_0000, segments, 0x1000);
        load(&prepare_bytes(&Files::default(), &content).unwrap()).err()
    };
    let fatal = |errno| Some(LoadError::Fatal(errno));
    let kernel = 0xffff_8000_0000_0000;
    assert_eq!(check(&[segment(RX, 0, kernel, 0x1000, 0x1000)]), fatal(Errno::EINVAL));
    assert_eq!(check(&[segment(RX, 0, 0x40_0000, 0x1000, 0x10)]), fatal(Errno::EINVAL));
    assert_eq!(check(&[segment(RX, 0, 0x40_0000, 0, u64::MAX)]), fatal(Errno::EINVAL));
    assert_eq!(check(&[segment(RX, 8, 0x40_0000, 0x100, 0x100)]), fatal(Errno::EINVAL));
    assert_eq!(check(&[segment(RX, 0, 0, 0x100, 0x100)]), fatal(Errno::EPERM));
    let note = Segment { kind: 4, ..segment(RX, 0, 0, 0, 0) };
    assert_eq!(check(&[note]), fatal(Errno::EINVAL));
}

#[test]
fn strings_that_do_not_fit() {
    let long = "a".repeat(100_000);
    let args = Strings::new([long.as_bytes(); 30]).unwrap();
    let files = Files::default();
    let call = |limit| {
        let file = bytes(&static_program());
        prepare(&files, file, b"/p", false, Strings::new(args.iter()).unwrap(), strings(&[]), limit)
    };
    assert_eq!(call(8 << 20).err(), Some(Errno::E2BIG));
    let prepared = call(64 << 20).unwrap();
    let ctx = context(64 << 20);
    let limits = MmLimits { stack: 64 << 20, ..MmLimits::default() };
    let loaded =
        prepared.load(&ctx, &limits, &Identity::default(), Personality::default()).unwrap();
    assert_eq!(word(&loaded.mm, loaded.registers.rsp), 30);
}

fn arbitrary_segment() -> impl Strategy<Value = Segment> {
    let number = || {
        prop_oneof![
            0..0x3000u64,
            Just(0u64),
            Just(PAGE),
            Just(u64::MAX),
            Just(u64::MAX - 0xfff),
            Just(0x7fff_ffff_f000),
            Just(i64::MAX as u64),
            0x40_0000..0x40_4000u64,
            any::<u64>()
        ]
    };
    let kind =
        prop_oneof![6 => Just(1u32), 1 => Just(3u32), 1 => Just(6u32), 1 => Just(0x6474_e551u32)];
    (kind, 0..8u32, number(), number(), number(), number()).prop_map(
        |(kind, flags, offset, vaddr, file_size, mem_size)| Segment {
            kind,
            flags,
            offset,
            vaddr,
            file_size,
            mem_size,
        },
    )
}

fn try_to_load(content: &[u8]) {
    let mut files = Files::default();
    files.0.insert(b"/interp".to_vec(), static_program());
    if let Ok(prepared) = prepare_bytes(&files, content)
        && let Ok(loaded) = load(&prepared)
    {
        // Whatever it is, it has a stack.
        assert_eq!(word(&loaded.mm, loaded.registers.rsp), 2);
    }
}

proptest! {
    #[test]
    fn any_headers(
        kind in 2..4u16,
        entry in any::<u64>(),
        segments in proptest::collection::vec(arbitrary_segment(), 0..6),
    ) {
        try_to_load(&elf(kind, entry, &segments, 0x2000));
    }

    #[test]
    fn any_bytes(mut content in proptest::collection::vec(any::<u8>(), 0..600), elf in any::<bool>()) {
        if elf && content.len() > 4 {
            content[..4].copy_from_slice(b"\x7fELF");
        }
        try_to_load(&content);
    }

    #[test]
    fn flipped_bytes(flips in proptest::collection::vec((0..200usize, any::<u8>()), 1..6)) {
        let mut content = static_program();
        for (at, byte) in flips {
            content[at] = byte;
        }
        try_to_load(&content);
    }
}
