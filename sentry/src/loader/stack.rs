//! The initial stack (`create_elf_tables`).
//!
//! From the top: a null word, the file name, the environment, the arguments, a random gap, the
//! platform's name, random bytes, and at the bottom what the program pops: argc, argv, envp, auxv.

use abi::Errno;
use zerocopy::IntoBytes;

use super::auxv::PLATFORM;
use super::strings::Strings;
use crate::mm::random_bytes;

/// Where the strings of a new stack are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The file name.
    pub(super) filename: u64,
    /// The environment's strings.
    pub(super) env: u64,
    /// The arguments' strings.
    pub(super) args: u64,
    /// `AT_PLATFORM`.
    pub(super) platform: u64,
    /// `AT_RANDOM`.
    pub(super) random: u64,
}

impl Layout {
    /// The places below `top`. `gap`: how far everything that follows the strings is moved down,
    /// for ASLR.
    pub(super) fn new(
        top: u64,
        filename: &[u8],
        env: &Strings,
        args: &Strings,
        gap: u64,
    ) -> Option<Layout> {
        let filename = top.checked_sub(8)?.checked_sub(filename.len() as u64 + 1)?;
        let env = filename.checked_sub(env.as_bytes().len() as u64)?;
        let args = env.checked_sub(args.as_bytes().len() as u64)?;
        let aligned = args.checked_sub(gap)? & !15;
        let platform = aligned.checked_sub(PLATFORM.len() as u64)? & !15;
        let random = platform.checked_sub(16)?;
        Some(Layout { filename, env, args, platform, random })
    }

    /// Hands each piece of the stack to `put`, with its address; nothing is copied that may be long.
    /// Returns the stack pointer.
    pub(super) fn fill(
        &self,
        filename: &[u8],
        env: &Strings,
        args: &Strings,
        auxv: &[(u64, u64)],
        mut put: impl FnMut(u64, &[u8]) -> Result<(), Errno>,
    ) -> Result<u64, Errno> {
        put(self.filename, filename)?;
        put(self.env, env.as_bytes())?;
        put(self.args, args.as_bytes())?;
        put(self.platform, PLATFORM)?;
        let mut random = [0; 16];
        random_bytes(&mut random);
        put(self.random, &random)?;
        let words = 1 + (args.len() + 1) + (env.len() + 1) + 2 * auxv.len();
        let sp = self.random.checked_sub(words as u64 * 8).ok_or(Errno::E2BIG)? & !15;
        let mut table = Vec::with_capacity(words);
        table.push(args.len() as u64);
        for (list, start) in [(args, self.args), (env, self.env)] {
            let mut at = start;
            for string in list.iter() {
                table.push(at);
                at += string.len() as u64 + 1;
            }
            table.push(0);
        }
        table.extend(auxv.iter().flat_map(|(key, value)| [*key, *value]));
        put(sp, table.as_bytes())?;
        Ok(sp)
    }
}

/// Bytes of stack that strings, pointers and tables need, at most.
pub(super) fn size(filename: &[u8], env: &Strings, args: &Strings, gap: u64) -> Result<u64, Errno> {
    const TABLES: u64 = 4096;
    let strings = filename.len() as u64 + 1 + (env.as_bytes().len() + args.as_bytes().len()) as u64;
    let pointers = (env.len() + args.len()) as u64 * 8;
    strings.checked_add(pointers).and_then(|n| n.checked_add(gap + TABLES)).ok_or(Errno::E2BIG)
}
