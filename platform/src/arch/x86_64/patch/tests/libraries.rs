//! What is recognised in real code: a linear sweep of a file's `.text` says what is true.

use super::super::instruction::decode;
use super::super::{Memory, Site, backward};
use goblin::elf::Elf;
use iced_x86::{Mnemonic, OpKind, Register};
use std::collections::BTreeSet;

/// The `.text` of a file: its address, its bytes, and where instructions begin.
struct Text {
    addr: u64,
    bytes: Vec<u8>,
    boundaries: BTreeSet<usize>,
}

/// What came of the `syscall` instructions of a file.
#[derive(Debug, Default)]
struct Survey {
    behind: usize,
    before: usize,
    missed: Vec<u64>,
    /// Sites that begin where no instruction does.
    wrong: Vec<u64>,
}

impl Text {
    /// `None` if there is no such file.
    fn of(path: &str) -> Option<Text> {
        let file = std::fs::read(path).ok()?;
        let elf = Elf::parse(&file).unwrap();
        let text = elf
            .section_headers
            .iter()
            .find(|s| elf.shdr_strtab.get_at(s.sh_name) == Some(".text"))
            .unwrap();
        let bytes = file[text.file_range().unwrap()].to_vec();
        let mut boundaries = BTreeSet::new();
        let mut offset = 0;
        while offset < bytes.len() {
            boundaries.insert(offset);
            offset += decode(&bytes[offset..]).map_or(1, |i| i.len());
        }
        Some(Text { addr: text.sh_addr, bytes, boundaries })
    }

    /// The part of a page that is `.text`, and the page's address.
    fn page(&self, offset: usize) -> (Vec<u8>, u64) {
        let page = (self.addr + offset as u64) & !0xfff;
        let from = page.saturating_sub(self.addr) as usize;
        // What lies before `.text` in the first page is some other section's code.
        let lead = self.addr.saturating_sub(page) as usize;
        let mut bytes = vec![0x90; lead];
        let until = (from + 4096 - lead).min(self.bytes.len());
        bytes.extend_from_slice(&self.bytes[from..until]);
        (bytes, page)
    }

    /// The number with which the `syscall` at `offset` presumably traps: the last constant that
    /// went to eax a little before.
    fn rax(&self, offset: usize) -> u64 {
        for start in self.boundaries.range(..offset).rev().take(12) {
            let Some(i) = decode(&self.bytes[*start..]) else { continue };
            if i.op_count() == 2 && i.op0_kind() == OpKind::Register {
                let register = i.op0_register().full_register();
                let constant = !matches!(i.op1_kind(), OpKind::Register | OpKind::Memory);
                if register == Register::RAX && i.mnemonic() == Mnemonic::Mov && constant {
                    return i.immediate(1);
                }
                if register == Register::RAX && i.mnemonic() == Mnemonic::Xor {
                    return 0;
                }
            }
        }
        0x1234
    }

    fn survey(&self, memory: Memory) -> Survey {
        let mut survey = Survey::default();
        for &offset in &self.boundaries {
            if !self.bytes[offset..].starts_with(&[0x0f, 0x05]) {
                continue;
            }
            let (code, page) = self.page(offset);
            let syscall = self.addr + offset as u64;
            match Site::recognise(&code, page, syscall, self.rax(offset), memory) {
                Some(site) => {
                    super::check_at(&site, &code, page);
                    if site.syscall == site.start {
                        survey.behind += 1;
                    } else {
                        survey.before += 1;
                    }
                    if !self.boundaries.contains(&((site.start - self.addr) as usize)) {
                        survey.wrong.push(site.start);
                    }
                }
                None => survey.missed.push(syscall),
            }
        }
        survey
    }
}

const LIBC: &str = "/lib/x86_64-linux-gnu/libc.so.6";

#[test]
fn nearly_all_of_glibc_is_recognised() {
    let Some(text) = Text::of(LIBC) else {
        eprintln!("skipped: no {LIBC}");
        return;
    };
    let survey = text.survey(Memory::Refused);
    println!("{survey:x?}");
    let (found, missed) = (survey.behind + survey.before, survey.missed.len());
    assert!(found > 100, "{found} sites only");
    assert!(found >= 9 * missed, "{found} recognised, {missed} missed: {:x?}", survey.missed);
    assert_eq!(survey.wrong, []);
}

/// How often decoding backward is right, on bytes that look like the instruction that is sought.
#[test]
fn boundaries_are_told_from_other_places() {
    let Some(text) = Text::of(LIBC) else {
        eprintln!("skipped: no {LIBC}");
        return;
    };
    // [not a boundary, boundary] x [held for none, held for one]
    let mut counts = [[0u32; 2]; 2];
    for offset in 0..text.bytes.len() {
        if text.bytes[offset] == 0xb8 && (text.addr as usize + offset) & 0xfff >= 64 {
            let truth = text.boundaries.contains(&offset);
            let from = offset.saturating_sub(64);
            let code = &text.bytes[from..(offset + 16).min(text.bytes.len())];
            let held = backward::is_boundary(code, offset - from);
            counts[usize::from(truth)][usize::from(held)] += 1;
        }
    }
    println!("{counts:?}");
    let [[right, wrong], [lost, kept]] = counts;
    assert!(wrong * 200 <= right, "{counts:?}");
    assert!(lost * 20 <= kept, "{counts:?}");
}
