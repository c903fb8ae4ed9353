//! The allow-list of host calls. Whatever is not on it kills the process, 32-bit and x32 entry
//! included: neither matches the filter's architecture and numbers.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use crate::error::{Context, Error, Layer};

/// What an argument must be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// Exactly this, all 64 bits.
    Is(u64),
    /// Exactly this in the low 32 bits: for `int` arguments, whose upper half the kernel ignores.
    IsInt(u32),
    /// No bits but these.
    Within(u64),
    /// At least these bits.
    HasBits(u64),
}

/// A test of one argument, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition(pub u8, pub Argument);

/// Host calls, each allowed with any arguments or under one of several sets of conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList {
    /// An empty list of alternatives means any arguments.
    calls: BTreeMap<i64, Vec<Vec<Condition>>>,
    /// Calls that answer ENOSYS.
    absent: Vec<i64>,
}

impl AllowList {
    /// These calls, with any arguments.
    #[must_use]
    pub fn of(calls: &[i64]) -> AllowList {
        AllowList::default().and(calls)
    }

    /// Adds calls with any arguments.
    #[must_use]
    pub fn and(mut self, calls: &[i64]) -> AllowList {
        self.calls.extend(calls.iter().map(|&call| (call, Vec::new())));
        self
    }

    /// Narrows `call` to arguments that meet all of `conditions`, or adds that as an alternative
    /// if it has been narrowed before. Allows the call if it was not on the list.
    #[must_use]
    pub fn only_if(mut self, call: i64, conditions: &[Condition]) -> AllowList {
        self.calls.entry(call).or_default().push(conditions.to_vec());
        self
    }

    /// Makes `calls` answer ENOSYS, as on a kernel that does not have them, so that libraries fall
    /// back to others. They are not counted as allowed.
    #[must_use]
    pub fn absent(mut self, calls: &[i64]) -> AllowList {
        self.calls.retain(|call, _| !calls.contains(call));
        self.absent.extend(calls);
        self
    }

    /// The calls that are allowed, at least with some arguments, in ascending order.
    pub fn calls(&self) -> impl Iterator<Item = i64> + '_ {
        self.calls.keys().copied()
    }

    /// What the list says about an x86-64 call, straight from its description.
    pub fn verdict(&self, call: i64, arguments: [u64; 6]) -> Verdict {
        if self.absent.contains(&call) {
            return Verdict::Absent;
        }
        let met = |condition: &Condition| condition.holds(arguments);
        match self.calls.get(&call) {
            None => Verdict::Kill,
            Some(alternatives) if alternatives.is_empty() => Verdict::Allow,
            Some(alternatives) if alternatives.iter().any(|all| all.iter().all(met)) => {
                Verdict::Allow
            }
            Some(_) => Verdict::Kill,
        }
    }

    /// The filters that are installed, the first one first. The host takes the strictest answer.
    ///
    /// # Errors
    /// When the list is too long for a filter.
    pub fn programs(&self) -> io::Result<Vec<BpfProgram>> {
        self.programs_or(SeccompAction::KillProcess)
    }

    fn programs_or(&self, otherwise: SeccompAction) -> io::Result<Vec<BpfProgram>> {
        let mut programs = Vec::new();
        if !self.absent.is_empty() {
            programs.push(self.compile_absent().map_err(io::Error::other)?);
        }
        // The allow-list goes last: it does not allow to install another.
        programs.push(self.compile(otherwise).map_err(io::Error::other)?);
        Ok(programs)
    }

    /// How many different calls are allowed.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether nothing is allowed.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// The filter program.
    fn compile(&self, otherwise: SeccompAction) -> Result<BpfProgram, seccompiler::BackendError> {
        let mut rules = BTreeMap::new();
        for (&call, alternatives) in &self.calls {
            let alternatives = alternatives
                .iter()
                .map(|conditions| {
                    let conditions: Result<Vec<_>, _> =
                        conditions.iter().map(|condition| condition.compile()).collect();
                    SeccompRule::new(conditions?)
                })
                .collect::<Result<Vec<_>, _>>()?;
            rules.insert(call, alternatives);
        }
        // The second filter has the say about these: of two verdicts the stricter one holds.
        rules.extend(self.absent.iter().map(|&call| (call, Vec::new())));
        let filter =
            SeccompFilter::new(rules, otherwise, SeccompAction::Allow, TargetArch::x86_64)?;
        filter.try_into()
    }

    /// The filter program that makes calls absent.
    fn compile_absent(&self) -> Result<BpfProgram, seccompiler::BackendError> {
        let rules = self.absent.iter().map(|&call| (call, Vec::new())).collect();
        let answer = SeccompAction::Errno(libc::ENOSYS as u32);
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, TargetArch::x86_64)?;
        filter.try_into()
    }

    /// Installs the list on the calling thread, and with it on all threads and processes that it
    /// makes. The process must be single-threaded and have `no_new_privs`.
    pub(crate) fn install(&self, otherwise: SeccompAction) -> Result<(), Error> {
        let programs =
            self.programs_or(otherwise).context(Layer::Seccomp, "compiling the lists")?;
        for program in &programs {
            seccompiler::apply_filter(program)
                .map_err(io::Error::other)
                .context(Layer::Seccomp, "installing a filter")?;
        }
        Ok(())
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Allow,
    /// It is ENOSYS.
    Absent,
    /// The process ends.
    Kill,
}

impl Condition {
    fn holds(self, arguments: [u64; 6]) -> bool {
        let Condition(index, argument) = self;
        let Some(&value) = arguments.get(usize::from(index)) else { return false };
        match argument {
            Argument::Is(expected) => value == expected,
            Argument::IsInt(expected) => value as u32 == expected,
            Argument::Within(mask) => value & !mask == 0,
            Argument::HasBits(mask) => value & mask == mask,
        }
    }

    fn compile(self) -> Result<SeccompCondition, seccompiler::BackendError> {
        let Condition(index, argument) = self;
        let (length, operator, value) = match argument {
            Argument::Is(value) => (SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value),
            Argument::IsInt(value) => (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value.into()),
            Argument::Within(mask) => (SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(!mask), 0),
            Argument::HasBits(mask) => {
                (SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), mask)
            }
        };
        SeccompCondition::new(index, length, operator, value)
    }
}

/// Runs a filter on a call as the kernel would, a step at a time. For tests of filters.
///
/// # Panics
/// On instructions that no filter of this crate has.
pub fn interpret(program: &[sock_filter], arch: u32, call: u32, arguments: [u64; 6]) -> u32 {
    // struct seccomp_data: number, architecture, instruction pointer, arguments.
    let mut data = [call.to_le_bytes(), arch.to_le_bytes()].concat();
    data.extend([0; 8]);
    data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
    let load = |offset: u32| {
        let at = offset as usize;
        data[at..at + 4].iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte))
    };
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let step = &program[at];
        at += 1;
        let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
        match step.code {
            0x20 => accumulator = load(step.k),
            0x54 => accumulator &= step.k,
            0x05 => at += step.k as usize,
            0x15 => at += jump(accumulator == step.k),
            0x25 => at += jump(accumulator > step.k),
            0x35 => at += jump(accumulator >= step.k),
            0x06 => return step.k,
            code => panic!("unexpected instruction {code:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(list: &AllowList, arch: u32, call: i64, arguments: [u64; 6]) -> u32 {
        let program = list.compile(SeccompAction::KillProcess).unwrap();
        interpret(&program, arch, call as u32, arguments)
    }

    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;
    const ALLOW: u32 = 0x7fff_0000;
    const KILL_PROCESS: u32 = 0x8000_0000;

    #[test]
    fn everything_off_the_list_kills_including_other_architectures() {
        let list = AllowList::of(&[libc::SYS_read, libc::SYS_write]);
        for call in 0..600 {
            let expected = if call <= 1 { ALLOW } else { KILL_PROCESS };
            assert_eq!(verdict(&list, X86_64, call, [0; 6]), expected, "call {call}");
            assert_eq!(verdict(&list, I386, call, [0; 6]), KILL_PROCESS, "32-bit call {call}");
            let x32 = call | 0x4000_0000;
            assert_eq!(verdict(&list, X86_64, x32, [0; 6]), KILL_PROCESS, "x32 call {call}");
        }
    }

    #[test]
    fn conditions_look_at_the_bits_they_should() {
        let list = AllowList::default()
            .only_if(1, &[Condition(0, Argument::Within(0b11))])
            .only_if(1, &[Condition(0, Argument::Is(1 << 40)), Condition(5, Argument::Is(9))])
            .only_if(2, &[Condition(1, Argument::IsInt(7))])
            .only_if(3, &[Condition(2, Argument::HasBits(0x1_0000_0001))]);
        for (call, arguments, expected) in [
            (1, [3, 0, 0, 0, 0, 0], ALLOW),
            (1, [4, 0, 0, 0, 0, 0], KILL_PROCESS),
            (1, [1 << 33, 0, 0, 0, 0, 0], KILL_PROCESS),
            (1, [1 << 40, 0, 0, 0, 0, 9], ALLOW),
            (1, [1 << 40, 0, 0, 0, 0, 8], KILL_PROCESS),
            (2, [0, 7 | 5 << 32, 0, 0, 0, 0], ALLOW),
            (2, [0, 8, 0, 0, 0, 0], KILL_PROCESS),
            (3, [0, 0, 0x1_0000_0003, 0, 0, 0], ALLOW),
            (3, [0, 0, 0x0_0000_0003, 0, 0, 0], KILL_PROCESS),
        ] {
            assert_eq!(verdict(&list, X86_64, call, arguments), expected, "{call} {arguments:x?}");
        }
    }
}
