//! The strings of execve(2), and their limits.

use abi::Errno;

use crate::kmem::Growing;
use crate::mm::MemoryManager;

/// `MAX_ARG_STRLEN`: longest string, with its NUL.
const MAX_STRING: usize = 128 << 10;
/// `ARG_MAX`: what is allowed whatever the stack's limit.
const MIN_TOTAL: u64 = 128 << 10;
/// Three quarters of Linux's default stack limit: what is allowed at most.
const MAX_TOTAL: u64 = 6 << 20;

/// Bytes of a list that are not counted.
const FREE: usize = 16 << 10;

/// Strings that follow each other, each ended by a NUL.
#[derive(Debug, Default)]
pub struct Strings {
    bytes: Vec<u8>,
    count: usize,
    memory: Growing,
}

impl Strings {
    /// Makes a list. `E2BIG` if a string is too long.
    pub fn new<'a>(strings: impl IntoIterator<Item = &'a [u8]>) -> Result<Strings, Errno> {
        let mut list = Strings::default();
        for string in strings {
            list.push(string)?;
        }
        Ok(list)
    }

    /// Appends a string, up to its first NUL. `E2BIG` if it is too long, `ENOMEM`.
    pub fn push(&mut self, string: &[u8]) -> Result<(), Errno> {
        let string = string.split(|byte| *byte == 0).next().unwrap_or_default();
        if string.len() >= MAX_STRING || self.bytes.len() as u64 > MAX_TOTAL {
            return Err(Errno::E2BIG);
        }
        // Those of short lists are the task's own expense. A list has as much room again, to grow.
        let more = self.bytes.len() + string.len();
        if more > FREE && !self.memory.cover(2 * more) {
            return Err(Errno::ENOMEM);
        }
        self.bytes.extend_from_slice(string);
        self.bytes.push(0);
        self.count += 1;
        Ok(())
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All strings with their NULs.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The strings, without their NULs.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.split(|byte| *byte == 0).take(self.count)
    }

    /// Puts others in the place of the first string.
    pub(super) fn replace_first(&mut self, with: &[Option<&[u8]>]) -> Result<(), Errno> {
        let mut new = Strings::new(with.iter().copied().flatten())?;
        for string in self.iter().skip(1) {
            new.push(string)?;
        }
        *self = new;
        Ok(())
    }
}

/// `bprm_stack_limits` and what `copy_strings` checks: whether strings and their pointers fit.
pub(super) fn check_total(
    args: &Strings,
    env: &Strings,
    filename: &[u8],
    stack_limit: u64,
) -> Result<(), Errno> {
    let limit = (stack_limit / 4).clamp(MIN_TOTAL, MAX_TOTAL);
    let pointers = (args.len().max(1) + env.len()) as u64 * 8;
    let bytes = (args.bytes.len() + env.bytes.len() + filename.len() + 1) as u64;
    // Linux stops when there is no room left at all for the first, not when it is just filled.
    if limit <= pointers || bytes > limit - pointers { Err(Errno::E2BIG) } else { Ok(()) }
}

/// Reads the null-terminated array of pointers to strings at `addr` (0: an empty list). `EFAULT`,
/// `E2BIG`.
pub fn read_strings(mm: &MemoryManager, addr: u64) -> Result<Strings, Errno> {
    let mut list = Strings::default();
    let mut at = addr;
    while at != 0 {
        let pointer: u64 = mm.read_obj(at)?;
        if pointer == 0 {
            break;
        }
        let string = mm.copy_in_cstr(pointer, MAX_STRING).map_err(|errno| match errno {
            Errno::ENAMETOOLONG => Errno::E2BIG,
            errno => errno,
        })?;
        list.push(&string)?;
        if list.count as u64 * 8 > MAX_TOTAL {
            return Err(Errno::E2BIG);
        }
        at = at.checked_add(8).ok_or(Errno::EFAULT)?;
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_the_first() {
        let mut list = Strings::new([&b"x"[..], b"", b"y"]).unwrap();
        list.replace_first(&[Some(b"/bin/sh"), None, Some(b"script")]).unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), [&b"/bin/sh"[..], b"script", b"", b"y"]);
        assert_eq!((list.len(), list.as_bytes()), (4, &b"/bin/sh\0script\0\0y\0"[..]));
    }

    #[test]
    fn limits() {
        let env = Strings::default();
        let long = vec![b'a'; MAX_STRING];
        assert_eq!(Strings::new([&long[..]]).err(), Some(Errno::E2BIG));
        let string = &long[..1000];
        let args = Strings::new(std::iter::repeat_n(string, 200)).unwrap();
        assert_eq!(check_total(&args, &env, b"/x", 8 << 20), Ok(()));
        assert_eq!(check_total(&args, &env, b"/x", 0), Err(Errno::E2BIG));
        let many = Strings::new(std::iter::repeat_n(&b""[..], 1 << 20)).unwrap();
        assert_eq!(check_total(&many, &env, b"/x", u64::MAX), Err(Errno::E2BIG));
    }
}
