//! `/proc/PID/maps`, `smaps` and `smaps_rollup`.

use std::io::Write as _;
use std::sync::Arc;

use abi::Errno;

use crate::kernel::Task;
use crate::mm::{Resident, VmFlags, VmaInfo};
use crate::vfs::Path;
use crate::vfs::dpath::d_path;

/// The column at which names begin.
const NAME_COLUMN: usize = 73;

pub(super) fn maps(task: &Arc<Task>, reader: &Task) -> Result<Vec<u8>, Errno> {
    let root = reader.fs().root();
    let mut out = Vec::new();
    if let Some(mm) = task.mm() {
        mm.for_each_vma(0, |area| {
            line(&mut out, &area, &root);
            true
        });
    }
    Ok(out)
}

fn line(out: &mut Vec<u8>, area: &VmaInfo, root: &Path) {
    let file = area.file.as_ref();
    let (dev, ino) = file.and_then(|f| f.attr().ok()).map_or((0, area.ino), |a| (a.dev, a.ino));
    let name = file.map_or_else(|| area.name.clone(), |f| d_path(f.path(), root));
    let access = |flag, c: char| if area.flags.contains(flag) { c } else { '-' };
    let shared = if area.flags.contains(VmFlags::MAYSHARE) { 's' } else { 'p' };
    let start = out.len();
    // Writing to a vector cannot fail.
    let _ = write!(
        out,
        "{:08x}-{:08x} {}{}{}{shared} {:08x} {:02x}:{:02x} {} ",
        area.range.start,
        area.range.end,
        access(VmFlags::READ, 'r'),
        access(VmFlags::WRITE, 'w'),
        access(VmFlags::EXEC, 'x'),
        area.offset,
        libc::major(dev),
        libc::minor(dev),
        ino,
    );
    if !name.is_empty() {
        out.resize(out.len().max(start + NAME_COLUMN), b' ');
        for &byte in &name {
            // As seq_file_path escapes it.
            match byte {
                b'\n' => out.extend_from_slice(b"\\012"),
                _ => out.push(byte),
            }
        }
    }
    out.push(b'\n');
}

fn sizes(out: &mut Vec<u8>, size: Option<u64>, resident: Resident, locked: u64) {
    let mut field = |name: &str, bytes: u64| {
        let _ = writeln!(out, "{:<16}{:>8} kB", format!("{name}:"), bytes / 1024);
    };
    if let Some(size) = size {
        field("Size", size);
        field("KernelPageSize", 4096);
        field("MMUPageSize", 4096);
    }
    let all = resident.private + resident.shared;
    field("Rss", all);
    field("Pss", all);
    field("Shared_Clean", resident.shared);
    field("Shared_Dirty", 0);
    field("Private_Clean", 0);
    field("Private_Dirty", resident.private);
    field("Referenced", all);
    field("Anonymous", resident.private);
    field("LazyFree", 0);
    field("AnonHugePages", 0);
    field("Swap", 0);
    field("SwapPss", 0);
    field("Locked", locked);
}

pub(super) fn smaps(task: &Arc<Task>, reader: &Task) -> Result<Vec<u8>, Errno> {
    let root = reader.fs().root();
    let mut out = Vec::new();
    if let Some(mm) = task.mm() {
        mm.for_each_vma(0, |area| {
            line(&mut out, &area, &root);
            let resident = mm.resident(area.range.clone());
            let size = area.range.end - area.range.start;
            let locked = if area.flags.contains(VmFlags::LOCKED) { size } else { 0 };
            sizes(&mut out, Some(size), resident, locked);
            let _ = writeln!(out, "THPeligible:           0");
            true
        });
    }
    Ok(out)
}

pub(super) fn smaps_rollup(task: &Arc<Task>, _: &Task) -> Result<Vec<u8>, Errno> {
    let mm = task.mm().ok_or(Errno::ESRCH)?;
    let (mut all, mut first, mut last, mut locked) = (Resident::default(), None, 0, 0);
    mm.for_each_vma(0, |area| {
        let resident = mm.resident(area.range.clone());
        all.private += resident.private;
        all.shared += resident.shared;
        if area.flags.contains(VmFlags::LOCKED) {
            locked += area.range.end - area.range.start;
        }
        first.get_or_insert(area.range.start);
        last = area.range.end;
        true
    });
    let mut out = Vec::new();
    let head = format!("{:08x}-{last:08x} ---p 00000000 00:00 0 ", first.unwrap_or(0));
    let _ = writeln!(out, "{head:<NAME_COLUMN$}[rollup]");
    sizes(&mut out, None, all, locked);
    Ok(out)
}
