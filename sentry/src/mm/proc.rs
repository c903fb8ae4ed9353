//! What /proc shows of an address space.

use std::ops::Range;
use std::sync::Arc;

use super::vma::{VmFlags, VmaName};
use super::{MemoryManager, PAGE, State};
use crate::vfs::FileDescription;

/// Where the parts of a program are (`struct mm_struct`'s fields of these names; prctl(2)
/// `PR_SET_MM`, /proc/PID/stat, cmdline, environ, auxv, exe).
#[derive(Clone, Default)]
#[allow(missing_docs)] // The names are Linux's.
pub struct ExecInfo {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_stack: u64,
    pub arg: Range<u64>,
    pub env: Range<u64>,
    pub auxv: Vec<(u64, u64)>,
    pub exe: Option<Arc<FileDescription>>,
}

/// One area, for /proc/PID/maps and smaps.
#[derive(Clone)]
pub struct VmaInfo {
    /// Addresses.
    pub range: Range<u64>,
    /// Access and everything else.
    pub flags: VmFlags,
    /// Offset in the file.
    pub offset: u64,
    /// The file.
    pub file: Option<Arc<FileDescription>>,
    /// Inode number of what is no file that somebody has open (a System V segment).
    pub ino: u64,
    /// What stands in the place of a file's path: `[stack]`, `/dev/zero (deleted)` and the like;
    /// empty for plain anonymous memory.
    pub name: Vec<u8>,
}

/// Sizes in bytes, for /proc/PID/status and statm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// `VmPeak`.
    pub peak: u64,
    /// `VmSize`.
    pub size: u64,
    /// `VmLck`.
    pub locked: u64,
    /// `VmHWM`: the most that was seen.
    pub rss_peak: u64,
    /// `RssAnon`.
    pub rss_anon: u64,
    /// `RssFile`.
    pub rss_file: u64,
    /// `RssShmem`.
    pub rss_shmem: u64,
    /// `VmData`.
    pub data: u64,
    /// `VmStk`.
    pub stack: u64,
    /// `VmExe`.
    pub exe: u64,
    /// `VmLib`.
    pub lib: u64,
}

impl MemoryUse {
    /// `VmRSS`.
    pub fn rss(&self) -> u64 {
        self.rss_anon + self.rss_file + self.rss_shmem
    }
}

/// What of an area is resident, for smaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// The area's own pages.
    pub private: u64,
    /// Pages of a file or of shared memory.
    pub shared: u64,
}

impl MemoryManager {
    /// Calls `f` with the areas from `start` on, in order, until it returns false.
    pub fn for_each_vma(&self, start: u64, mut f: impl FnMut(VmaInfo) -> bool) {
        // What `f` does with paths takes VFS locks, which come before ours: collect first.
        let (areas, brk, stack) = {
            let st = self.state.read();
            let areas: Vec<_> = st
                .vmas
                .overlapping(start..u64::MAX)
                .map(|(range, vma)| (range, vma.clone()))
                .collect();
            (areas, st.brk.clone(), st.exec.start_stack)
        };
        for (range, vma) in areas {
            let mut info = VmaInfo {
                flags: vma.flags,
                offset: vma.backing.as_ref().map_or(0, |backing| backing.offset),
                file: vma.backing.as_ref().and_then(|backing| backing.file.clone()),
                ino: 0,
                name: Vec::new(),
                range,
            };
            match (&vma.backing, &vma.name) {
                (Some(backing), _) if backing.file.is_none() => match &backing.area {
                    None => info.name = b"/dev/zero (deleted)".to_vec(),
                    Some(area) => {
                        info.name = area.ops().name();
                        info.ino = area.ops().ino();
                    }
                },
                (Some(_), _) => {}
                (None, VmaName::Vvar) => info.name = b"[vvar]".to_vec(),
                (None, VmaName::Vdso) => info.name = b"[vdso]".to_vec(),
                (None, VmaName::Anon(name)) => info.name = format!("[anon:{name}]").into_bytes(),
                (None, VmaName::None) => {
                    if info.range.start < brk.end && info.range.end > brk.start {
                        info.name = b"[heap]".to_vec();
                    } else if info.range.contains(&stack) {
                        info.name = b"[stack]".to_vec();
                    }
                }
            }
            if !f(info) {
                break;
            }
        }
    }

    /// Sizes. Asks the host which pages are resident: not for hot paths.
    pub fn memory_use(&self) -> MemoryUse {
        let mut st = self.state.write();
        let mut sizes = MemoryUse {
            peak: st.total_peak,
            size: st.total,
            locked: st.locked,
            ..MemoryUse::default()
        };
        let code = st.exec.start_code..st.exec.end_code;
        let mut exec = 0;
        for (range, vma) in st.vmas.iter() {
            let len = range.end - range.start;
            if vma.flags.contains(VmFlags::GROWSDOWN) {
                sizes.stack += len;
            } else if vma.flags.is_data() {
                sizes.data += len;
            } else if vma.flags.contains(VmFlags::EXEC) && !vma.is_special() {
                exec += len;
            }
            let resident = st.resident(range);
            match &vma.backing {
                None => sizes.rss_anon += resident.private + resident.shared,
                Some(backing) => {
                    sizes.rss_anon += resident.private;
                    match backing.file {
                        Some(_) => sizes.rss_file += resident.shared,
                        None => sizes.rss_shmem += resident.shared,
                    }
                }
            }
        }
        let code = super::page_up(code.end).unwrap_or(code.end) - super::page_down(code.start);
        sizes.exe = code.min(exec);
        sizes.lib = exec - sizes.exe;
        st.rss_peak = st.rss_peak.max(sizes.rss());
        sizes.rss_peak = st.rss_peak;
        sizes
    }

    /// What of a range is resident. Asks the host: not for hot paths.
    pub fn resident(&self, range: Range<u64>) -> Resident {
        self.state.read().resident(range)
    }

    /// Where the parts of the program are.
    pub fn exec_info(&self) -> ExecInfo {
        self.state.read().exec.clone()
    }

    /// Changes where the parts of the program are (exec, `PR_SET_MM`).
    pub fn update_exec_info(&self, change: impl FnOnce(&mut ExecInfo)) {
        change(&mut self.state.write().exec);
    }

    /// The heap's start and the program break.
    pub fn heap(&self) -> Range<u64> {
        self.state.read().brk.clone()
    }

    /// Number of areas.
    pub fn map_count(&self) -> usize {
        self.state.read().vmas.len()
    }

    /// Bytes in areas, for `RLIMIT_AS`.
    pub fn total_size(&self) -> u64 {
        self.state.read().total
    }

    /// The access that the area at `addr` allows, and where it ends.
    pub fn area_at(&self, addr: u64) -> Option<(Range<u64>, VmFlags)> {
        self.state.read().vmas.get(addr).map(|(range, vma)| (range, vma.flags))
    }

    /// `prctl(PR_SET_VMA_ANON_NAME)` on whole pages that are all mapped and anonymous. `ENOMEM` for
    /// holes, `EBADF` for files.
    pub fn set_anon_name(&self, range: Range<u64>, name: Option<&str>) -> Result<(), abi::Errno> {
        let mut st = self.state.write();
        if st.vmas.overlapping(range.clone()).any(|(_, vma)| !vma.is_anonymous()) {
            return Err(abi::Errno::EBADF);
        }
        let covered = st.vmas.covers(range.clone());
        let cuts = st.cuts(&range);
        if !st.has_room(cuts) {
            return Err(abi::Errno::ENOMEM);
        }
        let name = name.map_or(VmaName::None, |name| VmaName::Anon(name.into()));
        st.update_vmas(range, |vma| {
            if !vma.is_special() {
                vma.name = name.clone();
            }
        });
        if covered { Ok(()) } else { Err(abi::Errno::ENOMEM) }
    }
}

impl State {
    fn resident(&self, range: Range<u64>) -> Resident {
        let mut sum = Resident::default();
        let mut buf = [0u8; 512];
        for (found, pma) in self.pmas.overlapping(range.clone()) {
            let mut at = found.start.max(range.start);
            let end = found.end.min(range.end);
            while at < end {
                let pages = ((end - at) / PAGE).min(buf.len() as u64) as usize;
                let Some(out) = buf.get_mut(..pages).filter(|out| !out.is_empty()) else { break };
                pma.residence(at - found.start, out);
                let present = out.iter().filter(|byte| **byte != 0).count() as u64 * PAGE;
                if pma.private {
                    sum.private += present;
                } else {
                    sum.shared += present;
                }
                at += pages as u64 * PAGE;
            }
        }
        sum
    }
}
