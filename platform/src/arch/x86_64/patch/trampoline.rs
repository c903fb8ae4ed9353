//! The code that stands for a site.

use super::{Site, TRAMPOLINE_LEN};

/// `lea rcx, [rip + 5]`: the address behind the jump that follows.
const LEA_RCX: [u8; 7] = [0x48, 0x8d, 0x0d, 5, 0, 0, 0];
const JMP_REL32: u8 = 0xe9;
const JMP_REL32_LEN: u64 = 5;
/// `jmp qword ptr [rip]`: to the pointer that follows.
const JMP_NEXT: [u8; 6] = [0xff, 0x25, 0, 0, 0, 0];

/// The code that a site's slot leads to:
///
/// ```text
///        copy of the instructions before the syscall
///        lea  rcx, [rip + G]
///        jmp  entry
/// G:     .quad address behind the guest's syscall instruction
///        copy of the instructions behind the syscall     <- entry returns to rcx + 8
///        jmp  [rip + B]
/// B:     .quad where the guest goes on
/// ```
///
/// `syscall` itself overwrites rcx, so the guest does not miss it. Neither stack nor flags are
/// touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trampoline {
    /// The bytes, at most [`TRAMPOLINE_LEN`].
    pub(crate) code: Vec<u8>,
    /// (guest address, trampoline address) of every instruction boundary at which a thread can
    /// stand in either. Both columns ascend; the guest's `syscall` is there twice.
    pub(crate) places: Vec<(u64, u64)>,
}

impl Trampoline {
    /// Where in the trampoline a thread goes on whose `rip` is at an instruction of the site.
    pub(crate) fn enter(&self, guest: u64) -> Option<u64> {
        self.places.iter().find(|(g, _)| *g == guest).map(|(_, t)| *t)
    }

    /// Which guest address a thread stands at, seen from outside, whose `rip` is in the
    /// trampoline.
    pub(crate) fn leave(&self, trampoline: u64) -> Option<u64> {
        self.places.iter().find(|(_, t)| *t == trampoline).map(|(g, _)| *g)
    }
}

impl Site {
    /// The trampoline that will live at `at` and lead to the common entry at `entry`. `None` if
    /// that is more than 2 GiB away.
    pub(crate) fn trampoline(&self, at: u64, entry: u64) -> Option<Trampoline> {
        let mut code = Vec::with_capacity(TRAMPOLINE_LEN);
        let mut places = Vec::new();
        // Nothing a stub maps is near the end of the address space.
        at.checked_add(TRAMPOLINE_LEN as u64)?;

        let head = self.instructions().take_while(|i| *i <= self.syscall);
        places.extend(head.map(|i| (i, at + (i - self.start))));
        code.extend_from_slice(self.head());
        code.extend_from_slice(&LEA_RCX);

        let jmp = at + code.len() as u64;
        places.push((self.syscall, jmp));
        let distance = entry.wrapping_sub(jmp + JMP_REL32_LEN).cast_signed();
        code.push(JMP_REL32);
        code.extend_from_slice(&i32::try_from(distance).ok()?.to_le_bytes());
        code.extend_from_slice(&self.next().to_le_bytes());

        let back = at + code.len() as u64;
        let tail = self.instructions().skip_while(|i| *i < self.next());
        places.extend(tail.map(|i| (i, back + (i - self.next()))));
        code.extend_from_slice(self.tail());
        places.push((self.resume(), at + code.len() as u64));
        code.extend_from_slice(&JMP_NEXT);
        code.extend_from_slice(&self.resume().to_le_bytes());

        (code.len() <= TRAMPOLINE_LEN).then_some(Trampoline { code, places })
    }
}
