//! Whole paths: recognise, patch, trampoline.

mod libraries;

use super::instruction::decode;
use super::*;
use iced_x86::{Code, Mnemonic, OpKind, Register};
use proptest::prelude::*;

const PAGE: u64 = 0x40_1000;
const AT: u64 = 0x7fff_0000_1000;
const ENTRY: u64 = 0x7fff_0000_0100;

/// A page of `nop`s with `bytes` in it; `%` stands before the `syscall`. The site, if any.
fn recognise(before: &[u8], behind: &[u8], rax: u64) -> Option<Site> {
    recognise_with(before, behind, rax, Memory::Refused)
}

fn recognise_with(before: &[u8], behind: &[u8], rax: u64, memory: Memory) -> Option<Site> {
    let mut page = vec![0x90; 4096];
    let at = 0x800;
    page[at - before.len()..at].copy_from_slice(before);
    page[at..at + 2].copy_from_slice(&[0x0f, 0x05]);
    page[at + 2..at + 2 + behind.len()].copy_from_slice(behind);
    let site = Site::recognise(&page, PAGE, PAGE + at as u64, rax, memory);
    if let Some(site) = &site {
        check(site, &page);
    }
    site
}

/// Everything that must hold for any accepted site.
fn check(site: &Site, code: &[u8]) {
    check_at(site, code, PAGE);
}

/// The same, of a page at another address.
fn check_at(site: &Site, code: &[u8], page: u64) {
    let from = (site.start - page) as usize;
    assert_eq!(site.original(), &code[from..from + site.len()]);
    assert!(site.len() >= JUMP_LEN);
    let slot = Slots::new().allocate(site).expect("an empty table has a slot for every site");
    assert!(site.fits(slot));
    let patched = site.patched(slot).unwrap();
    assert_eq!(patched.len(), site.len());

    let jump = decode(&patched).unwrap();
    assert_eq!(jump.code(), Code::Jmp_rm64);
    assert_eq!(jump.len(), JUMP_LEN);
    assert_eq!(jump.memory_base(), Register::None);
    assert_eq!(jump.memory_index(), Register::None);
    assert_eq!(jump.memory_displacement64(), u64::from(slot));

    // Walk the original, and see that every boundary inside faults once patched.
    let mut boundaries = Vec::new();
    let mut offset = 0;
    while offset < site.len() {
        if offset > 0 {
            assert!(faults(&patched[offset..]), "{site:x?} at {offset}");
            boundaries.push(site.start + offset as u64);
        }
        offset += decode(&site.original()[offset..]).unwrap().len();
    }
    assert_eq!(offset, site.len());
    assert_eq!(site.interior().collect::<Vec<_>>(), boundaries);

    let trampoline = site.trampoline(AT, ENTRY).unwrap();
    assert!(trampoline.code.len() <= TRAMPOLINE_LEN);
    let (head, tail) = read_trampoline(site, &trampoline);
    let whole = [&head, &[0x0f, 0x05][..], &tail].concat();
    assert_eq!(whole, code[from..from + whole.len()]);
    assert_eq!(whole.len() as u64, site.end().max(site.next()) - site.start);
    for place in boundaries {
        assert!(trampoline.enter(place).is_some(), "{place:#x} of {site:x?}");
    }
}

/// Whether user code that jumps to these bytes traps there.
fn faults(bytes: &[u8]) -> bool {
    let mut whole = bytes.to_vec();
    whole.resize(16, 0);
    let Some(instruction) = decode(&whole) else { return true };
    matches!(instruction.mnemonic(), Mnemonic::In | Mnemonic::Hlt)
}

/// Decodes the trampoline, checks its fixed parts and the places, and returns head and tail.
fn read_trampoline(site: &Site, trampoline: &Trampoline) -> (Vec<u8>, Vec<u8>) {
    let code = &trampoline.code;
    let quad = |at: usize| u64::from_le_bytes(code[at..at + 8].try_into().unwrap());
    let mut places = Vec::new();
    let (mut offset, mut guest) = (0, site.start);
    while guest < site.syscall {
        places.push((guest, AT + offset as u64));
        let len = decode(&code[offset..]).unwrap().len();
        offset += len;
        guest += len as u64;
    }
    assert_eq!(guest, site.syscall);
    let head = code[..offset].to_vec();

    places.push((site.syscall, AT + offset as u64));
    let lea = decode(&code[offset..]).unwrap();
    assert_eq!((lea.code(), lea.op0_register()), (Code::Lea_r64_m, Register::RCX));
    assert_eq!(lea.memory_base(), Register::RIP);
    let next = offset + lea.memory_displacement64() as usize;
    offset += lea.len();
    places.push((site.syscall, AT + offset as u64));
    let jmp = decode(&code[offset..]).unwrap();
    assert_eq!(jmp.code(), Code::Jmp_rel32_64);
    assert_eq!((AT + offset as u64).wrapping_add(jmp.near_branch64()), ENTRY);
    offset += jmp.len();
    assert_eq!(offset, next);
    assert_eq!(quad(offset), site.syscall + 2);
    offset += 8;

    let tail = offset;
    let end = site.resume();
    guest = site.syscall + 2;
    while guest < end {
        places.push((guest, AT + offset as u64));
        let len = decode(&code[offset..]).unwrap().len();
        offset += len;
        guest += len as u64;
    }
    assert_eq!(guest, end);
    places.push((end, AT + offset as u64));
    let tail = code[tail..offset].to_vec();
    let jmp = decode(&code[offset..]).unwrap();
    assert_eq!((jmp.code(), jmp.op0_kind()), (Code::Jmp_rm64, OpKind::Memory));
    assert_eq!(jmp.memory_base(), Register::RIP);
    assert_eq!(quad(offset + jmp.memory_displacement64() as usize), end);
    assert_eq!(code.len(), offset + jmp.len() + 8);

    assert_eq!(trampoline.places, places);
    for (guest, place) in places {
        assert_eq!(trampoline.leave(place), Some(guest));
    }
    (head, tail)
}

const MOV_EAX_39: [u8; 5] = [0xb8, 39, 0, 0, 0];
const MOV_RAX_39: [u8; 7] = [0x48, 0xc7, 0xc0, 39, 0, 0, 0];
const CMP_4096: [u8; 6] = [0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff];
const RET: [u8; 1] = [0xc3];

fn offsets(site: &Site) -> (i64, usize, Option<u32>) {
    (site.syscall as i64 - site.start as i64, site.len(), site.nr)
}

#[test]
fn the_compare_behind_is_swallowed() {
    let site = recognise(&[], &CMP_4096, 39).unwrap();
    assert_eq!(offsets(&site), (0, 8, None));
    assert_eq!(site.patched(0x6_1230).unwrap(), [0xff, 0x24, 0xe5, 0x30, 0x12, 0x06, 0, 0xcc]);
    // Known bytes are preferred to guessed ones.
    assert_eq!(recognise(&MOV_EAX_39, &CMP_4096, 39), Some(site));
}

#[test]
fn the_load_before_is_swallowed() {
    let site = recognise(&MOV_EAX_39, &RET, 39).unwrap();
    assert_eq!(offsets(&site), (5, 7, Some(39)));
    let site = recognise(&MOV_RAX_39, &RET, 39).unwrap();
    assert_eq!(offsets(&site), (7, 7, Some(39)));
    assert_eq!(site.end(), site.syscall);
    // xor %eax,%eax; syscall; mov %eax,%ebx; nop: boundaries at 2 and 4; 6 is one too many.
    let site = recognise(&[0x31, 0xc0], &[0x48, 0x89, 0xc3, 0xc3], 0).unwrap();
    assert_eq!(offsets(&site), (2, 7, Some(0)));
    assert_eq!(site.demands(), (false, true));
    assert_eq!(recognise(&[0x31, 0xc0], &[0x89, 0xc3, 0x90, 0xc3], 0), None);
}

#[test]
fn a_load_of_another_value_is_not() {
    assert_eq!(recognise(&MOV_EAX_39, &RET, 40), None);
    assert_eq!(recognise(&MOV_RAX_39, &RET, 40), None);
    assert_eq!(recognise(&[0x31, 0xc0], &RET, 1), None);
    assert_eq!(recognise(&[0xb8, 0xff, 0xff, 0xff, 0xff], &RET, u64::MAX), None);
    assert_eq!(recognise(&[0x48, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff], &RET, 0xffff_ffff), None);
}

#[test]
fn signal_returns_are_left_alone() {
    assert_eq!(recognise(&[0x48, 0xc7, 0xc0, 15, 0, 0, 0], &CMP_4096, 15), None);
}

#[test]
fn the_entry_must_be_near() {
    let site = recognise(&[], &CMP_4096, 0).unwrap();
    assert!(site.trampoline(AT, AT + 0x7fff_0000).is_some());
    assert_eq!(site.trampoline(AT, AT + 0x8000_0100), None);
    assert_eq!(site.trampoline(AT, 0), None);
    assert_eq!(site.trampoline(u64::MAX, ENTRY), None);
}

#[test]
fn the_faulting_bytes_fault_whatever_follows() {
    for byte in FAULTING {
        for next in 0..=255 {
            assert!(faults(&[byte, next]), "{byte:02x} {next:02x}");
        }
    }
    // The two of the jump that are not chosen.
    assert!((0..=255).all(|next| faults(&[0xe5, next]) && faults(&[0x06, next])));
}

#[test]
fn any_register_load_before_makes_room() {
    // musl: mov %r8,%rdi; syscall; mov %rax,%rdi; call __syscall_ret
    let site = recognise(&[0x4c, 0x89, 0xc7], &[0x48, 0x89, 0xc7, 0xe8, 0, 0, 0, 0], 3).unwrap();
    assert_eq!(offsets(&site), (3, 8, None));
    assert_eq!(site.demands(), (true, false));
    assert_eq!(site.patched(0x6_0008), None);
    assert!(site.patched(0x6_0006).is_some());
    // musl: mov $129,%esi; mov %r8,%rax; syscall; jmp: the syscall stays in place.
    let loads = [0xbe, 129, 0, 0, 0, 0x4c, 0x89, 0xc0];
    let site = recognise(&loads, &[0xeb, 0x10], 202).unwrap();
    assert_eq!(offsets(&site), (8, 8, None));
    assert_eq!((site.end(), site.resume()), (site.syscall, site.syscall + 2));
    // mov $7,%rsi; mov %rdx,%rax; syscall; ret: so does the second load.
    let loads = [0x48, 0xc7, 0xc6, 7, 0, 0, 0, 0x48, 0x89, 0xd0];
    let site = recognise(&loads, &RET, 202).unwrap();
    assert_eq!(offsets(&site), (10, 7, None));
    assert_eq!(site.trampoline(AT, ENTRY).unwrap().enter(site.end()), Some(AT + 7));
}

#[test]
fn the_number_is_what_the_last_write_to_rax_made_it() {
    // mov $39,%eax; mov $1,%edi; syscall; ret
    let site = recognise(&[0xbf, 1, 0, 0, 0], &RET, 39).unwrap();
    assert_eq!(offsets(&site), (5, 7, None));
    // mov $39,%eax; mov %r12,%rdi; syscall; mov %rax,%rbx; ret: the mov is not swallowed.
    let loads = [0xb8, 39, 0, 0, 0, 0x4c, 0x89, 0xe7];
    assert_eq!(recognise(&loads, &[0x48, 0x89, 0xc3, 0xc3], 39).unwrap().nr, None);
    // ...; syscall; ret: it is.
    assert_eq!(recognise(&loads, &RET, 39).unwrap().nr, Some(39));
    assert_eq!(recognise(&loads, &RET, 40), None);
    // mov $39,%eax; not %rax; syscall; ret
    let loads = [0xb8, 39, 0, 0, 0, 0x48, 0xf7, 0xd0];
    assert_eq!(recognise(&loads, &RET, !39).unwrap().nr, None);
}

#[test]
fn loads_and_stores_are_the_callers_choice() {
    // Go's rawSyscallNoError: mov 8(%rsp),%rax; syscall; mov %rax,40(%rsp)
    let before = [0x48, 0x8b, 0x44, 0x24, 0x08];
    let behind = [0x48, 0x89, 0x44, 0x24, 0x28];
    assert_eq!(recognise(&before, &behind, 39), None);
    let site = recognise_with(&before, &behind, 39, Memory::Allowed).unwrap();
    assert_eq!(offsets(&site), (0, 7, None));
    // musl's __syscall_cp_asm: mov %r11,8(%rsp); syscall; ret
    let before = [0x4c, 0x89, 0x5c, 0x24, 0x08];
    assert_eq!(recognise(&before, &RET, 0), None);
    let site = recognise_with(&before, &RET, 0, Memory::Allowed).unwrap();
    assert_eq!(offsets(&site), (5, 7, None));
    // glibc's vfork: pop %rdi; mov $58,%eax; syscall; push %rdi: no need of either.
    let site = recognise_with(&[0x5f, 0xb8, 58, 0, 0, 0], &[0x57], 58, Memory::Allowed).unwrap();
    assert_eq!(offsets(&site), (5, 7, Some(58)));
}

#[test]
fn what_depends_on_its_place_is_not_moved() {
    let not = |behind: &[u8]| {
        assert_eq!(recognise_with(&[0xc3], behind, 39, Memory::Allowed), None, "{behind:02x?}");
    };
    not(&[0x48, 0x8d, 0x05, 1, 0, 0, 0]); // lea 1(%rip),%rax
    not(&[0x8b, 0x05, 1, 0, 0, 0]); // mov 1(%rip),%eax
    not(&[0xe8, 1, 0, 0, 0]); // call
    not(&[0x0f, 0x84, 1, 0, 0, 0]); // je
    not(&[0xcd, 0x80, 0x48, 0x89, 0xc3]); // int $0x80
    not(&[0x48, 0xf7, 0xf1, 0x48, 0x89, 0xc3]); // div %rcx
    not(&[0x8e, 0xd8, 0x48, 0x89, 0xc3]); // mov %eax,%ds
    not(&[0xf0, 0x48, 0x0f, 0xb1, 0x0f]); // lock cmpxchg %rcx,(%rdi)
    not(&[0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0]); // mov %fs:0,%rax
    not(&[0x48, 0x0f, 0xc7, 0xf0, 0x90]); // rdrand %rax
    not(&[0x0f, 0x05, 0x48, 0x89, 0xc3]); // syscall
    not(&[0x0f, 0x1f, 0x44, 0, 0]); // nop
}

#[test]
fn nothing_crosses_a_page() {
    let mut page = vec![0x90; 4096];
    page[4094..].copy_from_slice(&[0x0f, 0x05]);
    page[4089..4094].copy_from_slice(&MOV_EAX_39);
    // The load before is in the page, the instruction behind is not.
    let site = Site::recognise(&page, PAGE, PAGE + 4094, 39, Memory::Allowed).unwrap();
    assert_eq!((site.start, site.end()), (PAGE + 4089, PAGE + 4096));
    page.extend_from_slice(&CMP_4096);
    assert_eq!(Site::recognise(&page, PAGE, PAGE + 4094, 40, Memory::Allowed), None);
    page[4095] = 0x0f;
    page[4096] = 0x05;
    assert_eq!(Site::recognise(&page, PAGE, PAGE + 4095, 39, Memory::Allowed), None);
    // At the beginning there is nothing to decode from.
    page[..5].copy_from_slice(&MOV_EAX_39);
    page[5..7].copy_from_slice(&[0x0f, 0x05]);
    page[7] = 0xc3;
    assert_eq!(Site::recognise(&page, PAGE, PAGE + 5, 39, Memory::Allowed), None);
    // What cannot be read is not there.
    let mut page = vec![0x90; 64];
    page.extend_from_slice(&[0x0f, 0x05]);
    page.extend_from_slice(&CMP_4096);
    assert!(Site::recognise(&page, PAGE, PAGE + 64, 39, Memory::Refused).is_some());
    page.pop();
    assert_eq!(Site::recognise(&page, PAGE, PAGE + 64, 39, Memory::Refused), None);
}

#[test]
fn clashes_are_seen() {
    // syscall; movabs 0xb8050f050f050f05,%al; and, in the middle of it, syscall; mov $0,%eax.
    let mut page = vec![0x90; 256];
    let code = [0x0f, 5, 0xa0, 0x0f, 5, 0x0f, 5, 0x0f, 5, 0x0f, 5, 0xb8, 0, 0, 0, 0];
    page[64..64 + code.len()].copy_from_slice(&code);
    let site = |at| Site::recognise(&page, PAGE, PAGE + at, 0, Memory::Allowed).unwrap();
    let (outer, inner) = (site(64), site(73));
    assert!(outer.clashes(&inner) && inner.clashes(&outer) && inner.clashes(&inner));
    // Neighbours do not: mov $39,%rax; syscall; and what follows.
    let one = recognise(&MOV_RAX_39, &RET, 39).unwrap();
    let mut two = site(73);
    two.start = one.resume();
    assert!(!one.clashes(&two) && !two.clashes(&one));
    // Unless one returns into the other's inside.
    two.start = one.end();
    two.syscall = two.start;
    assert!(two.interior().eq([one.resume()]));
    assert!(one.clashes(&two) && two.clashes(&one));
}

/// Pieces of code to make pages of that have sites in them more often than chance would.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => Just(vec![0x0f, 0x05]),
        1 => (0..3u32).prop_map(|nr| [&[0xb8][..], &nr.to_le_bytes()].concat()),
        1 => (0..3u32).prop_map(|nr| [&[0x48, 0xc7, 0xc0][..], &nr.to_le_bytes()].concat()),
        1 => Just(vec![0x31, 0xc0]),
        1 => Just(CMP_4096.to_vec()),
        1 => Just(vec![0x90]),
        1 => Just(vec![0x48, 0x89, 0xc3]),
        1 => Just(vec![0x89, 0xc3]),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ]
}

proptest! {
    #[test]
    fn any_bytes_give_sound_sites_or_none(
        pieces in prop::collection::vec(piece(), 0..200),
        cut in 0..=4096usize,
        rax in 0..3u64,
    ) {
        let mut page = pieces.concat();
        page.truncate(cut);
        for at in 0..=page.len() as u64 {
            for memory in [Memory::Refused, Memory::Allowed] {
                if let Some(site) = Site::recognise(&page, PAGE, PAGE + at, rax, memory) {
                    check(&site, &page);
                }
            }
        }
    }

    #[test]
    fn any_arguments_are_survived(
        code in prop::collection::vec(any::<u8>(), 0..5000),
        page in any::<u64>(),
        syscall in any::<u64>(),
        aligned in any::<bool>(),
        rax in any::<u64>(),
    ) {
        let page = if aligned { page & !0xfff } else { page };
        let near = page.wrapping_add(syscall % 4100);
        let _ = Site::recognise(&code, page, syscall, rax, Memory::Refused);
        let _ = Site::recognise(&code, page, near, rax, Memory::Allowed);
    }
}
