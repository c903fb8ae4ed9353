//! Where the host put vvar and vDSO in this process, and where stubs have them: elsewhere, because
//! guests can read the commands that move them, and must not learn where the Sentry's memory is.

use std::sync::OnceLock;

use crate::{Clocks, VdsoImage};

/// What was found. Children have it where their parent has it, so a process without `/proc` can
/// inherit the finding.
static FOUND: OnceLock<Option<Vdso>> = OnceLock::new();

/// The host's special mappings, in address order. The last one is the vDSO, what comes before is
/// data that it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vdso {
    /// (Address, length) in blank stubs.
    pub(crate) parts: Vec<(u64, u64)>,
    /// Address of the first of them in this process.
    host: u64,
}

impl Vdso {
    /// As [`Vdso::find`], if guests are to have it. Blank stubs have it at `home` (address, bytes),
    /// where no guest can map anything.
    pub(crate) fn find_for(clocks: Clocks, home: (u64, u64)) -> Option<Vdso> {
        let mut vdso = (clocks == Clocks::Native).then(Vdso::find).flatten()?;
        for (start, _) in &mut vdso.parts {
            *start += home.0;
        }
        (vdso.len() <= home.1).then_some(vdso)
    }

    /// Finds them in `/proc/self/maps`, if this process or the one that it was forked from has not
    /// before. `None` if there are none or they are not in one piece, in which case guests do
    /// without. They begin at 0.
    pub(crate) fn find() -> Option<Vdso> {
        let look = || Vdso::parse(&std::fs::read_to_string("/proc/self/maps").ok()?);
        FOUND.get_or_init(look).clone()
    }

    fn parse(maps: &str) -> Option<Vdso> {
        let mut parts = Vec::new();
        let mut code = None;
        for line in maps.lines() {
            let name = line.split_whitespace().nth(5).unwrap_or_default();
            if !matches!(name, "[vvar]" | "[vvar_vclock]" | "[vdso]") {
                continue;
            }
            let (start, end) = line.split_whitespace().next()?.split_once('-')?;
            let start = u64::from_str_radix(start, 16).ok()?;
            let end = u64::from_str_radix(end, 16).ok()?;
            parts.push((start, end - start));
            if name == "[vdso]" {
                code = Some(start);
            }
        }
        let in_one_piece = parts.windows(2).all(|w| w[0].0 + w[0].1 == w[1].0);
        if !in_one_piece || parts.len() < 2 || code != parts.last().map(|p| p.0) {
            return None;
        }
        let host = parts.first()?.0;
        for (start, _) in &mut parts {
            *start -= host;
        }
        Some(Vdso { parts, host })
    }

    /// First address in blank stubs.
    pub(crate) fn start(&self) -> u64 {
        self.parts.first().map_or(0, |p| p.0)
    }

    /// Bytes of all parts.
    pub(crate) fn len(&self) -> u64 {
        self.parts.iter().map(|p| p.1).sum()
    }

    /// For a copy of this process that is to become a stub: where each part is, where it is to be,
    /// and its length.
    pub(crate) fn moves(&self) -> Vec<(u64, u64, u64)> {
        self.parts.iter().map(|&(to, len)| (to - self.start() + self.host, to, len)).collect()
    }

    pub(crate) fn image(&self) -> Option<VdsoImage> {
        let &(code, code_len) = self.parts.last()?;
        Some(VdsoImage {
            vvar_base: self.start(),
            vvar_len: code - self.start(),
            code_len,
            sentry_code: (code - self.start() + self.host) as *const u8,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_of_linux_are_understood() {
        let new = "\
7f2f9e57f000-7f2f9e583000 r--p 00000000 00:00 0                          [vvar]
7f2f9e583000-7f2f9e585000 r--p 00000000 00:00 0                          [vvar_vclock]
7f2f9e585000-7f2f9e587000 r-xp 00000000 00:00 0                          [vdso]
7f2f9e587000-7f2f9e588000 r--p 00000000 fe:00 325843                     /lib/ld.so
";
        let vdso = Vdso::parse(new).unwrap();
        let image = vdso.image().unwrap();
        assert_eq!((image.vvar_base, image.vvar_len, image.code_len), (0, 0x6000, 0x2000));
        assert_eq!(image.sentry_code as u64, 0x7f2f_9e58_5000);
        assert_eq!(vdso.moves()[1], (0x7f2f_9e58_3000, 0x4000, 0x2000));
        let old = "\
7ffd1000-7ffd5000 r--p 00000000 00:00 0                          [vvar]
7ffd5000-7ffd6000 r-xp 00000000 00:00 0                          [vdso]
";
        let parts = Vdso::parse(old).unwrap().parts;
        assert_eq!(parts, [(0, 0x4000), (0x4000, 0x1000)]);
    }

    #[test]
    fn odd_layouts_mean_no_vdso() {
        assert_eq!(Vdso::parse(""), None);
        assert_eq!(Vdso::parse("1000-2000 r-xp 0 0:0 0 [vdso]\n"), None);
        let hole = "1000-2000 r--p 0 0:0 0 [vvar]\n3000-4000 r-xp 0 0:0 0 [vdso]\n";
        assert_eq!(Vdso::parse(hole), None);
    }

    #[test]
    fn this_host_has_one() {
        assert!(Vdso::find().is_some());
    }
}
