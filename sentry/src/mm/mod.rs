//! Guest memory: address spaces and what is mapped in them.
//!
//! A [`MemoryManager`] is one guest address space. It holds VMAs (what the guest asked for) and
//! PMAs (what backs it now), and tells the platform's [`AddressSpace`] what the stub is to map.
//!
//! Lock order: VFS locks -> `MemoryManager::state` -> a [`Mappable`]'s own locks ->
//! [`MappingRegistry`], hot chunks -> the platform. Two `state` locks are never held at once, except by fork,
//! whose child nobody else knows yet.

use std::any::Any;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::Errno;
use parking_lot::{Mutex, RwLock};
use platform::{AddressSpace, MemoryFile, Platform};

mod advice;
mod area;
mod brk;
mod copy;
mod fault;
mod fork;
mod host;
mod host_file;
pub mod interval_map;
mod layout;
mod lock;
mod map;
mod mappable;
mod pma;
mod proc;
mod protect;
mod remap;
mod remote;
mod shmem;
mod trim;
mod vma;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use area::AreaOps;
pub use copy::MemoryKey;
pub use fault::FaultError;
pub use host::{global_barrier, random_bytes, random_u64};
pub use host_file::HostFile;
pub use layout::{MMAP_MIN_ADDR, TASK_SIZE};
pub use map::{FileMapping, MmapRequest};
pub use mappable::{Extent, MapFault, Mappable, MappingRegistry, Translation};
pub use proc::{ExecInfo, MemoryUse, Resident, VmaInfo};
pub use shmem::{MAX_SIZE as MAX_SHMEM_SIZE, Quota, ShmemObject};
pub use trim::Relief;
pub use vma::VmFlags;

use crate::kmem::{self, Growing, KernelMemory};
use crate::rarely::Rarely;
use fork::HotChunks;
use interval_map::IntervalMap;
use layout::Layout;
use pma::Pma;
use vma::Vma;

/// Size of a page.
pub const PAGE: u64 = platform::PAGE_SIZE;

/// `vm.max_map_count`.
pub const MAX_MAP_COUNT: usize = 65530;

/// What a stub may need of the host's areas beside the pieces of memory of its guest: a few of its own,
/// one for each thread, two where patched code cuts a mapping.
const STUBS_OWN: u64 = 5530;

/// Past this many separate pieces of memory in one address space, calls that would make more say
/// `ENOMEM`: each may be an area of the host's, which gives a process `vm.max_map_count` of them.
static MAX_PMAS: AtomicUsize = AtomicUsize::new(pieces_within(MAX_MAP_COUNT as u64));

/// Says how many areas the host lets a process have. Until then it is Linux's default.
pub fn set_host_areas(areas: u64) {
    MAX_PMAS.store(pieces_within(areas), Ordering::Relaxed);
}

/// Never more than a guest has areas; few where the host gives few.
const fn pieces_within(areas: u64) -> usize {
    let left = areas.saturating_sub(STUBS_OWN);
    if left < MAX_MAP_COUNT as u64 { left as usize } else { MAX_MAP_COUNT }
}

fn max_pmas() -> usize {
    MAX_PMAS.load(Ordering::Relaxed)
}

/// Rounds down to a page border.
pub fn page_down(addr: u64) -> u64 {
    addr & !(PAGE - 1)
}

/// Rounds up to a page border; `None` on overflow.
pub fn page_up(addr: u64) -> Option<u64> {
    addr.checked_add(PAGE - 1).map(page_down)
}

/// What all address spaces of a sandbox share.
pub struct MmContext {
    /// Makes address spaces.
    pub platform: Arc<dyn Platform>,
    /// Holds their memory.
    pub memory: Arc<MemoryFile>,
    /// Gets memory from where it is wasted, for copies that find none.
    pub relief: Relief,
}

/// The caller's resource limits (getrlimit(2)) and rights, as far as memory goes. `u64::MAX` is
/// `RLIM_INFINITY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmLimits {
    /// `RLIMIT_AS`.
    pub address_space: u64,
    /// `RLIMIT_DATA`.
    pub data: u64,
    /// `RLIMIT_STACK`.
    pub stack: u64,
    /// `RLIMIT_MEMLOCK`.
    pub memlock: u64,
    /// `CAP_IPC_LOCK`: `memlock` does not count.
    pub ipc_lock: bool,
}

impl MmLimits {
    /// No limits.
    pub const UNLIMITED: MmLimits = MmLimits {
        address_space: u64::MAX,
        data: u64::MAX,
        stack: u64::MAX,
        memlock: u64::MAX,
        ipc_lock: true,
    };
}

impl Default for MmLimits {
    /// Linux's limits for the first process.
    fn default() -> Self {
        MmLimits { stack: 8 << 20, memlock: 8 << 20, ipc_lock: false, ..Self::UNLIMITED }
    }
}

/// One guest address space. Tasks made with `CLONE_VM` share it.
pub struct MemoryManager {
    ctx: Arc<MmContext>,
    space: Arc<dyn AddressSpace>,
    /// `RLIMIT_STACK`, for stacks that grow on a fault.
    stack_limit: AtomicU64,
    this: Weak<MemoryManager>,
    /// What the family of forked copies writes to soon after a fork.
    hot: Arc<HotChunks>,
    state: RwLock<State>,
    memory: Option<KernelMemory>,
    /// Dropped when all else is.
    gone: OnceLock<Gone>,
    /// Last: what must not be reused before the address space is gone.
    rest: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Drop for MemoryManager {
    /// What backs the mappings goes with the address space, or soon after: nobody waits for that, and
    /// it does not count any more.
    fn drop(&mut self) {
        let st = self.state.get_mut();
        let own = st.pmas.iter().map(|(_, pma)| pma.own()).sum();
        let Some(loan) = self.ctx.memory.lend(own) else { return };
        let rest = (std::mem::take(&mut st.pmas), self.memory.take(), loan, self.gone.take());
        *self.rest.get_mut() = self.space.leave(Box::new(rest));
    }
}

/// Calls somebody when it is dropped.
struct Gone(Box<dyn Fn() + Send + Sync>);

impl Drop for Gone {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// What the lock protects.
struct State {
    vmas: IntervalMap<Vma>,
    pmas: IntervalMap<Pma>,
    layout: Layout,
    /// The heap: where it starts, and the program break.
    brk: Range<u64>,
    /// Bytes in areas (`total_vm`), and the most there ever were.
    total: u64,
    total_peak: u64,
    /// Bytes that count for `RLIMIT_DATA` (`data_vm`).
    data: u64,
    /// Bytes in locked areas (`locked_vm`).
    locked: u64,
    /// `mlockall(MCL_FUTURE)`: what new areas get.
    def_flags: VmFlags,
    /// Most bytes that were resident when somebody looked (`hiwater_rss`).
    rss_peak: u64,
    exec: ExecInfo,
    /// What the records of areas and memory cost, but for the first.
    records: Growing,
}

/// So many areas are an address space's own expense.
const FIRST_AREAS: usize = 256;

impl MemoryManager {
    /// An empty address space for a new program. `random` and `compat_layout` come from the
    /// personality. `ENOMEM` when the host gives none.
    pub fn new(
        ctx: &Arc<MmContext>,
        limits: &MmLimits,
        random: bool,
        compat_layout: bool,
    ) -> Result<Arc<MemoryManager>, Errno> {
        let layout = Layout::new(ctx.platform.user_range(), limits.stack, random, compat_layout);
        let state = State {
            vmas: IntervalMap::new(),
            pmas: IntervalMap::new(),
            layout,
            brk: 0..0,
            total: 0,
            total_peak: 0,
            data: 0,
            locked: 0,
            def_flags: VmFlags::empty(),
            rss_peak: 0,
            exec: ExecInfo::default(),
            records: Growing::default(),
        };
        Self::with_state(ctx, limits.stack, Arc::default(), state)
    }

    fn with_state(
        ctx: &Arc<MmContext>,
        stack_limit: u64,
        hot: Arc<HotChunks>,
        state: State,
    ) -> Result<Arc<MemoryManager>, Errno> {
        let memory = kmem::charge(kmem::ADDRESS_SPACE).ok_or(Errno::ENOMEM)?;
        let space = ctx.platform.new_address_space().map_err(|error| {
            static FAILED: Rarely = Rarely::new();
            if let Some(count) = FAILED.due() {
                tracing::warn!(%error, count, "no address space");
            }
            Errno::ENOMEM
        })?;
        Ok(Arc::new_cyclic(|this| MemoryManager {
            ctx: ctx.clone(),
            space,
            stack_limit: AtomicU64::new(stack_limit),
            this: this.clone(),
            hot,
            state: RwLock::new(state),
            memory: Some(memory),
            gone: OnceLock::new(),
            rest: Mutex::default(),
        }))
    }

    /// The platform's side of the address space.
    pub fn address_space(&self) -> &Arc<dyn AddressSpace> {
        &self.space
    }

    /// What it shares with the sandbox's other address spaces.
    pub fn context(&self) -> &Arc<MmContext> {
        &self.ctx
    }

    /// Has `tell` called once all of its memory is given back. The first who asks for it is told.
    pub fn when_gone(&self, tell: impl Fn() + Send + Sync + 'static) {
        self.gone.get_or_init(|| Gone(Box::new(tell)));
    }

    /// Tells of a new `RLIMIT_STACK` of the process.
    pub fn set_stack_limit(&self, limit: u64) {
        self.stack_limit.store(limit, Ordering::Relaxed);
    }
}

impl State {
    fn account(&mut self, flags: VmFlags, len: u64, add: bool) {
        let update = |counter: &mut u64| {
            *counter = if add { *counter + len } else { counter.saturating_sub(len) };
        };
        update(&mut self.total);
        if flags.is_data() {
            update(&mut self.data);
        }
        if flags.contains(VmFlags::LOCKED) {
            update(&mut self.locked);
        }
        self.total_peak = self.total_peak.max(self.total);
    }

    /// Inserts an area into unused addresses, and joins it with its neighbours.
    fn put_vma(&mut self, range: Range<u64>, vma: Vma) {
        self.account(vma.flags, range.end - range.start, true);
        if vma.flags.contains(VmFlags::GROWSDOWN) {
            self.layout.stack_at(range.start);
        }
        self.vmas.insert(range, vma);
    }

    /// Takes the areas of a range out, cutting those that cross its borders.
    fn take_vmas(&mut self, range: Range<u64>) -> Vec<(Range<u64>, Vma)> {
        let end = range.end;
        let taken = self.lift_vmas(range);
        self.layout.freed(&self.vmas, end);
        taken
    }

    /// Finds free addresses: [`Layout::find`].
    fn find_free(&mut self, hint: u64, len: u64, low_32bit: bool) -> Result<u64, Errno> {
        self.layout.find(&self.vmas, hint, len, low_32bit)
    }

    /// As [`State::take_vmas`], where others are put in their places at once.
    fn lift_vmas(&mut self, range: Range<u64>) -> Vec<(Range<u64>, Vma)> {
        let taken = self.vmas.take(range);
        for (range, vma) in &taken {
            self.account(vma.flags, range.end - range.start, false);
        }
        taken
    }

    /// Changes every area of a range in place.
    fn update_vmas(&mut self, range: Range<u64>, mut change: impl FnMut(&mut Vma)) {
        for (range, mut vma) in self.lift_vmas(range) {
            change(&mut vma);
            self.put_vma(range, vma);
        }
    }

    /// Whether there may be `more` areas, and memory for the records of all.
    fn has_room(&mut self, more: usize) -> bool {
        let records = self.vmas.len() + more + self.pmas.len();
        self.vmas.len() + more <= MAX_MAP_COUNT
            && self.records.cover(records.saturating_sub(FIRST_AREAS) * kmem::AREA)
    }

    /// How many areas cutting at the borders of `range` would add.
    fn cuts(&self, range: &Range<u64>) -> usize {
        let cut = |at: u64| usize::from(self.vmas.get(at).is_some_and(|(r, _)| r.start < at));
        cut(range.start) + cut(range.end)
    }

    /// Bytes of areas in a range.
    fn mapped_in(&self, range: Range<u64>) -> u64 {
        self.vmas
            .overlapping(range.clone())
            .map(|(found, _)| found.end.min(range.end) - found.start.max(range.start))
            .sum()
    }

    /// `may_expand_vm`: whether `len` more bytes stay within the limits.
    fn may_expand(&self, flags: VmFlags, len: u64, limits: &MmLimits) -> bool {
        self.total.saturating_add(len) <= limits.address_space
            && (!flags.is_data() || self.data.saturating_add(len) <= limits.data)
    }

    /// `mlock_future_ok`: whether `len` more locked bytes stay within the limit.
    fn may_lock(&self, flags: VmFlags, len: u64, limits: &MmLimits) -> bool {
        !flags.contains(VmFlags::LOCKED)
            || limits.ipc_lock
            || self.locked.saturating_add(len) <= limits.memlock
    }
}
