//! The extended processor state that guests have, and whether an image of it can be loaded.

use std::arch::x86_64::{__cpuid, __cpuid_count, _fxsave64, _xgetbv};

use crate::Error;

/// Offsets in an XSAVE image (Intel SDM volume 1, 13.4).
const FCW: usize = 0;
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
const HEADER: usize = 512;
const HEADER_LEN: usize = 64;
/// x87 and SSE: always there.
const LEGACY: u64 = 3;
/// AMX tiles: the host wants to be asked for them (`ARCH_REQ_XCOMP_PERM`), and guests cannot.
const TILES: u64 = 3 << 17;
/// Protection keys' rights: guests cannot have keys, and with rights of a guest's making (WRPKRU asks
/// nobody) stub code could not go on. The host gives those that new programs have on each signal.
const PKRU: u64 = 1 << 9;

/// What guests have.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// The features, as in XCR0.
    pub(super) mask: u64,
    /// Bytes of an image.
    pub(super) len: usize,
    mxcsr_mask: u32,
}

#[repr(align(64))]
struct Legacy([u8; 512]);

impl Layout {
    /// Asks the processor.
    ///
    /// # Errors
    /// `EOPNOTSUPP` without XSAVE, or if an image does not fit where stubs save it.
    pub(super) fn probe() -> Result<Layout, Error> {
        const OSXSAVE: u32 = 1 << 27;
        let unsupported = || Error::host("extended processor state", libc::EOPNOTSUPP);
        if __cpuid(1).ecx & OSXSAVE == 0 {
            return Err(unsupported());
        }
        let mut area = Legacy([0; 512]);
        // SAFETY: OSXSAVE says that the host has XGETBV enabled; the area is large and aligned.
        let mask = unsafe {
            _fxsave64(area.0.as_mut_ptr());
            xgetbv() & !(TILES | PKRU)
        };
        let mut len = HEADER + HEADER_LEN;
        for feature in (2..63).filter(|f| mask & 1 << f != 0) {
            let leaf = __cpuid_count(0xd, feature);
            len = len.max((leaf.eax + leaf.ebx) as usize);
        }
        let mut word = [0; 4];
        word.copy_from_slice(&area.0[MXCSR_MASK..MXCSR_MASK + 4]);
        let mxcsr_mask = match u32::from_le_bytes(word) {
            0 => 0xffbf,
            mask => mask,
        };
        if len as u64 > crate::arch::doorbell::XSAVE_LEN {
            return Err(unsupported());
        }
        Ok(Layout { mask, len, mxcsr_mask })
    }

    /// The state that Linux gives a new program.
    pub(super) fn clean(&self) -> Vec<u8> {
        let mut clean = vec![0; self.len];
        clean[FCW..FCW + 2].copy_from_slice(&0x37fu16.to_le_bytes());
        clean[MXCSR..MXCSR + 4].copy_from_slice(&0x1f80u32.to_le_bytes());
        // x87 and SSE are in the image, everything else is in its initial state.
        clean[HEADER] = LEGACY as u8;
        clean
    }

    /// Whether XRSTOR would take it.
    pub(super) fn is_valid(&self, image: &[u8]) -> bool {
        let Some(header) = image.get(HEADER..HEADER + HEADER_LEN) else { return false };
        let (features, reserved) = header.split_at(8);
        let features = u64::from_le_bytes(features.try_into().unwrap_or([0xff; 8]));
        let Some(mxcsr) = image.get(MXCSR..MXCSR + 4) else { return false };
        let mxcsr = u32::from_le_bytes(mxcsr.try_into().unwrap_or([0xff; 4]));
        image.len() <= self.len
            && features & !self.mask == 0
            && reserved.iter().all(|&b| b == 0)
            && mxcsr & !self.mxcsr_mask == 0
    }
}

/// # Safety
/// The host must have XSAVE enabled.
#[target_feature(enable = "xsave")]
unsafe fn xgetbv() -> u64 {
    // SAFETY: the caller's promise.
    unsafe { _xgetbv(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clean_state_is_valid_and_others_are_not() {
        let layout = Layout::probe().unwrap();
        assert_eq!(layout.mask & (TILES | PKRU), 0);
        let clean = layout.clean();
        assert!(layout.is_valid(&clean));
        for (at, value) in [(HEADER + 7, 0x80), (HEADER + 8, 1), (HEADER + 63, 1), (MXCSR + 3, 1)] {
            let mut bad = clean.clone();
            bad[at] = value;
            assert!(!layout.is_valid(&bad), "{at}");
        }
        assert!(!layout.is_valid(&clean[..500]));
    }
}
