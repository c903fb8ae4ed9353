//! Classic BPF over `struct seccomp_data`: what makes a program valid (`net/core/filter.c`'s
//! `bpf_check_classic`, `kernel/seccomp.c`'s `seccomp_check_filter`), and an interpreter.
//!
//! Guests write these programs. A [`Program`] is a checked one: every jump goes forward and stays
//! inside, every path ends in a return, scratch memory is written before it is read. So running it
//! ends after at most as many steps as it has instructions.

use abi::Errno;
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `struct sock_filter`
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    Serialize,
    Deserialize,
)]
#[repr(C)]
pub struct Insn {
    /// What to do.
    pub code: u16,
    /// How far to jump if true.
    pub jt: u8,
    /// How far to jump if false.
    pub jf: u8,
    /// The constant.
    pub k: u32,
}

/// `struct seccomp_data`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Data {
    /// The system call's number.
    pub nr: i32,
    /// `AUDIT_ARCH_*`
    pub arch: u32,
    /// Behind the `syscall` instruction.
    pub instruction_pointer: u64,
    /// The argument registers.
    pub args: [u64; 6],
}

/// Size of [`Data`] in bytes.
pub const DATA_SIZE: u32 = size_of::<Data>() as u32;
const _: () = assert!(DATA_SIZE == 64);

impl Data {
    /// The 32-bit word at `offset`, which is aligned; `None` past the end.
    pub fn word(&self, offset: u32) -> Option<u32> {
        let at = usize::try_from(offset).ok()?;
        let bytes = self.as_bytes().get(at..at.checked_add(4)?)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    }
}

/// Most instructions of a program (`BPF_MAXINSNS`).
pub const MAX_INSNS: usize = 4096;
/// Words of scratch memory (`BPF_MEMWORDS`).
const MEM_WORDS: usize = 16;

/// Instruction codes that seccomp has, by `<linux/bpf_common.h>`'s names.
#[allow(missing_docs)]
pub mod code {
    pub const LD_IMM: u16 = 0x00;
    pub const LDX_IMM: u16 = 0x01;
    pub const ST: u16 = 0x02;
    pub const STX: u16 = 0x03;
    pub const LD_W_ABS: u16 = 0x20;
    pub const LD_MEM: u16 = 0x60;
    pub const LDX_MEM: u16 = 0x61;
    pub const LD_W_LEN: u16 = 0x80;
    pub const LDX_W_LEN: u16 = 0x81;
    pub const ADD_K: u16 = 0x04;
    pub const ADD_X: u16 = 0x0c;
    pub const SUB_K: u16 = 0x14;
    pub const SUB_X: u16 = 0x1c;
    pub const MUL_K: u16 = 0x24;
    pub const MUL_X: u16 = 0x2c;
    pub const DIV_K: u16 = 0x34;
    pub const DIV_X: u16 = 0x3c;
    pub const OR_K: u16 = 0x44;
    pub const OR_X: u16 = 0x4c;
    pub const AND_K: u16 = 0x54;
    pub const AND_X: u16 = 0x5c;
    pub const LSH_K: u16 = 0x64;
    pub const LSH_X: u16 = 0x6c;
    pub const RSH_K: u16 = 0x74;
    pub const RSH_X: u16 = 0x7c;
    pub const NEG: u16 = 0x84;
    pub const XOR_K: u16 = 0xa4;
    pub const XOR_X: u16 = 0xac;
    pub const JA: u16 = 0x05;
    pub const JEQ_K: u16 = 0x15;
    pub const JEQ_X: u16 = 0x1d;
    pub const JGT_K: u16 = 0x25;
    pub const JGT_X: u16 = 0x2d;
    pub const JGE_K: u16 = 0x35;
    pub const JGE_X: u16 = 0x3d;
    pub const JSET_K: u16 = 0x45;
    pub const JSET_X: u16 = 0x4d;
    pub const RET_K: u16 = 0x06;
    pub const RET_A: u16 = 0x16;
    pub const TAX: u16 = 0x07;
    pub const TXA: u16 = 0x87;
}

use code::*;

/// A program that may run.
#[derive(Clone, Debug)]
pub struct Program(Box<[Insn]>);

impl Program {
    /// Checks a program. `EINVAL` for one that is empty, too long, or has an instruction that is
    /// unknown, jumps out, reads scratch memory that it did not write or data that is not there, or
    /// falls off the end.
    pub fn new(insns: Vec<Insn>) -> Result<Program, Errno> {
        if insns.is_empty() || insns.len() > MAX_INSNS {
            return Err(Errno::EINVAL);
        }
        for (pc, insn) in insns.iter().enumerate() {
            check(*insn, insns.len() - pc - 1)?;
        }
        if !insns.last().is_some_and(|last| matches!(last.code, RET_K | RET_A)) {
            return Err(Errno::EINVAL);
        }
        check_memory(&insns)?;
        Ok(Program(insns.into()))
    }

    /// How many instructions it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: an empty program is not valid.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many instructions Linux makes of it (`bpf_convert_filter`): its limit for a chain of
    /// filters counts those.
    pub fn translated_len(&self) -> usize {
        const PROLOGUE: usize = 3;
        self.0.iter().map(|insn| translated(*insn)).sum::<usize>() + PROLOGUE
    }

    /// What it returns for a call.
    pub fn run(&self, data: &Data) -> u32 {
        // A checked program reads nothing else than what is there.
        self.execute(|offset| data.word(offset)).unwrap_or(0)
    }

    /// What it returns for every call with this number on this architecture, if that does not depend
    /// on anything else (`seccomp_is_const_allow`).
    pub fn constant(&self, nr: i32, arch: u32) -> Option<u32> {
        self.execute(|offset| match offset {
            0 => Some(nr as u32),
            4 => Some(arch),
            _ => None,
        })
    }

    /// Runs it with `load` as the data; `None` as soon as that has nothing to say.
    fn execute(&self, load: impl Fn(u32) -> Option<u32>) -> Option<u32> {
        let (mut a, mut x) = (0u32, 0u32);
        let mut mem = [0u32; MEM_WORDS];
        let mut pc = 0usize;
        loop {
            let insn = self.0.get(pc)?;
            pc += 1;
            let k = insn.k;
            let mut jump = |taken: bool| {
                pc += usize::from(if taken { insn.jt } else { insn.jf });
            };
            match insn.code {
                LD_IMM => a = k,
                LDX_IMM => x = k,
                LD_W_ABS => a = load(k)?,
                LD_W_LEN => a = DATA_SIZE,
                LDX_W_LEN => x = DATA_SIZE,
                LD_MEM => a = *mem.get(k as usize)?,
                LDX_MEM => x = *mem.get(k as usize)?,
                ST => *mem.get_mut(k as usize)? = a,
                STX => *mem.get_mut(k as usize)? = x,
                ADD_K => a = a.wrapping_add(k),
                ADD_X => a = a.wrapping_add(x),
                SUB_K => a = a.wrapping_sub(k),
                SUB_X => a = a.wrapping_sub(x),
                MUL_K => a = a.wrapping_mul(k),
                MUL_X => a = a.wrapping_mul(x),
                // Division by zero ends the program with 0.
                DIV_K => match a.checked_div(k) {
                    Some(quotient) => a = quotient,
                    None => return Some(0),
                },
                DIV_X => match a.checked_div(x) {
                    Some(quotient) => a = quotient,
                    None => return Some(0),
                },
                OR_K => a |= k,
                OR_X => a |= x,
                AND_K => a &= k,
                AND_X => a &= x,
                XOR_K => a ^= k,
                XOR_X => a ^= x,
                // The hardware's shifts: the count is taken modulo 32.
                LSH_K => a = a.wrapping_shl(k),
                LSH_X => a = a.wrapping_shl(x),
                RSH_K => a = a.wrapping_shr(k),
                RSH_X => a = a.wrapping_shr(x),
                NEG => a = a.wrapping_neg(),
                JA => pc = pc.checked_add(k as usize)?,
                JEQ_K => jump(a == k),
                JEQ_X => jump(a == x),
                JGT_K => jump(a > k),
                JGT_X => jump(a > x),
                JGE_K => jump(a >= k),
                JGE_X => jump(a >= x),
                JSET_K => jump(a & k != 0),
                JSET_X => jump(a & x != 0),
                RET_K => return Some(k),
                RET_A => return Some(a),
                TAX => x = a,
                TXA => a = x,
                _ => return None,
            }
        }
    }
}

/// Checks one instruction that `after` others follow.
fn check(insn: Insn, after: usize) -> Result<(), Errno> {
    let valid = match insn.code {
        LD_IMM | LDX_IMM | LD_W_LEN | LDX_W_LEN | ADD_K | ADD_X | SUB_K | SUB_X | MUL_K | MUL_X
        | DIV_X | OR_K | OR_X | AND_K | AND_X | XOR_K | XOR_X | LSH_X | RSH_X | NEG | RET_K
        | RET_A | TAX | TXA => true,
        DIV_K => insn.k != 0,
        LSH_K | RSH_K => insn.k < 32,
        LD_MEM | LDX_MEM | ST | STX => (insn.k as usize) < MEM_WORDS,
        LD_W_ABS => insn.k < DATA_SIZE && insn.k.is_multiple_of(4),
        JA => (insn.k as usize) < after,
        JEQ_K | JEQ_X | JGT_K | JGT_X | JGE_K | JGE_X | JSET_K | JSET_X => {
            usize::from(insn.jt) < after && usize::from(insn.jf) < after
        }
        _ => false,
    };
    if valid { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Scratch memory is read only where every path has written it (`check_load_and_stores`).
fn check_memory(insns: &[Insn]) -> Result<(), Errno> {
    // For each instruction, what has been written on every path that jumps to it.
    let mut reached = vec![u16::MAX; insns.len()];
    let mut written = 0u16;
    for (pc, insn) in insns.iter().enumerate() {
        written &= reached.get(pc).copied().unwrap_or(0);
        // `k` is below 16 for those that use it.
        let cell = 1u16.wrapping_shl(insn.k);
        let mut target = |distance: usize| {
            if let Some(mask) = reached.get_mut(pc + 1 + distance) {
                *mask &= written;
            }
        };
        match insn.code {
            ST | STX => written |= cell,
            LD_MEM | LDX_MEM if written & cell == 0 => return Err(Errno::EINVAL),
            JA => {
                target(insn.k as usize);
                written = u16::MAX;
            }
            JEQ_K | JEQ_X | JGT_K | JGT_X | JGE_K | JGE_X | JSET_K | JSET_X => {
                target(insn.jt.into());
                target(insn.jf.into());
                written = u16::MAX;
            }
            _ => {}
        }
    }
    Ok(())
}

/// How many instructions of Linux's own one of these becomes.
fn translated(insn: Insn) -> usize {
    match insn.code {
        // A check for zero.
        DIV_X => 5,
        RET_K => 2,
        JEQ_K | JGT_K | JGE_K | JSET_K | JEQ_X | JGT_X | JGE_X | JSET_X => {
            let by_constant = matches!(insn.code, JEQ_K | JGT_K | JGE_K | JSET_K);
            // Constants there are signed: a large one goes through a register.
            let load = usize::from(by_constant && (insn.k as i32) < 0);
            let turns_round = !matches!(insn.code, JSET_K | JSET_X);
            let one = insn.jf == 0 || (insn.jt == 0 && turns_round);
            load + if one { 1 } else { 2 }
        }
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stmt(code: u16, k: u32) -> Insn {
        Insn { code, jt: 0, jf: 0, k }
    }

    fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Insn {
        Insn { code, jt, jf, k }
    }

    fn run(insns: &[Insn], data: &Data) -> Option<u32> {
        Program::new(insns.to_vec()).ok().map(|p| p.run(data))
    }

    #[test]
    fn arithmetic_is_32_bits_wide() {
        let with =
            |code, a, k| run(&[stmt(LD_IMM, a), stmt(code, k), stmt(RET_A, 0)], &Data::default());
        assert_eq!(with(ADD_K, u32::MAX, 2), Some(1));
        assert_eq!(with(SUB_K, 1, 2), Some(u32::MAX));
        assert_eq!(with(MUL_K, 1 << 31, 2), Some(0));
        assert_eq!(with(DIV_K, 7, 2), Some(3));
        assert_eq!(with(NEG, 1, 0), Some(u32::MAX));
        assert_eq!(with(LSH_K, 3, 31), Some(1 << 31));
        let by_x = |code, a, x| {
            run(
                &[stmt(LD_IMM, a), stmt(LDX_IMM, x), stmt(code, 0), stmt(RET_A, 0)],
                &Data::default(),
            )
        };
        assert_eq!(by_x(DIV_X, 7, 0), Some(0));
        assert_eq!(by_x(RSH_X, 0x80, 36), Some(8));
        assert_eq!(by_x(XOR_X, 5, 6), Some(3));
    }

    #[test]
    fn data_is_read_by_words() {
        let data = Data {
            nr: -1,
            arch: 7,
            instruction_pointer: 1 << 32 | 9,
            args: [1, 2, 3, 4, 5, 6 << 32],
        };
        let load = |k| run(&[stmt(LD_W_ABS, k), stmt(RET_A, 0)], &data);
        assert_eq!(load(0), Some(u32::MAX));
        assert_eq!(load(4), Some(7));
        assert_eq!((load(8), load(12)), (Some(9), Some(1)));
        assert_eq!((load(56), load(60)), (Some(0), Some(6)));
        assert_eq!((load(64), load(2), load(u32::MAX - 3)), (None, None, None));
    }

    #[test]
    fn what_linux_refuses_is_refused() {
        let ret = stmt(RET_K, 0);
        let refused: [&[Insn]; 14] = [
            &[],
            &[stmt(LD_IMM, 0)],
            &[stmt(0xffff, 0), ret],
            // BPF_RET | BPF_X, BPF_ALU | BPF_MOD | BPF_K, BPF_LD | BPF_B | BPF_ABS
            &[stmt(0x0e, 0)],
            &[stmt(0x94, 3), ret],
            &[stmt(0x30, 0), ret],
            &[stmt(DIV_K, 0), ret],
            &[stmt(LSH_K, 32), ret],
            &[stmt(ST, 16), ret],
            &[stmt(LD_MEM, 0), ret],
            &[stmt(JA, 1), ret],
            &[stmt(JA, u32::MAX), ret],
            &[jump(JEQ_K, 0, 0, 1), ret],
            // Written on one of two paths only.
            &[jump(JEQ_K, 0, 1, 0), stmt(ST, 3), stmt(LD_MEM, 3), ret],
        ];
        for insns in refused {
            assert!(Program::new(insns.to_vec()).is_err(), "{insns:?}");
        }
        assert!(Program::new(vec![ret; MAX_INSNS]).is_ok());
        assert!(Program::new(vec![ret; MAX_INSNS + 1]).is_err());
        assert!(Program::new(vec![stmt(ST, 3), stmt(LD_MEM, 3), ret]).is_ok());
    }

    #[test]
    fn constants_are_seen_only_when_nothing_else_is_read() {
        let insns = vec![
            stmt(LD_W_ABS, 0),
            jump(JEQ_K, 39, 0, 1),
            stmt(RET_K, 1),
            stmt(LD_W_ABS, 16),
            stmt(RET_A, 0),
        ];
        let program = Program::new(insns).unwrap();
        assert_eq!(program.constant(39, 0), Some(1));
        assert_eq!(program.constant(40, 0), None);
    }

    #[test]
    fn lengths_are_those_of_linux() {
        let len = |insns: &[Insn]| Program::new(insns.to_vec()).unwrap().translated_len();
        let ret = stmt(RET_K, 0);
        assert_eq!(len(&[ret]), 5);
        assert_eq!(len(&[jump(JEQ_K, 1, 0, 1), ret, ret]), 3 + 1 + 4);
        assert_eq!(len(&[jump(JEQ_K, 1 << 31, 0, 1), ret, ret]), 3 + 2 + 4);
        assert_eq!(len(&[jump(JSET_K, 1, 0, 1), ret, ret]), 3 + 2 + 4);
        assert_eq!(len(&[jump(JEQ_X, 1 << 31, 1, 1), ret, ret]), 3 + 2 + 4);
    }

    const CODES: [u16; 40] = [
        LD_IMM, LDX_IMM, ST, STX, LD_W_ABS, LD_MEM, LDX_MEM, LD_W_LEN, LDX_W_LEN, ADD_K, ADD_X,
        SUB_K, SUB_X, MUL_K, MUL_X, DIV_K, DIV_X, OR_K, OR_X, AND_K, AND_X, LSH_K, LSH_X, RSH_K,
        RSH_X, NEG, XOR_K, XOR_X, JA, JEQ_K, JEQ_X, JGT_K, JGE_K, JSET_K, JSET_X, RET_K, RET_A,
        TAX, TXA, 0x94,
    ];

    fn insns() -> impl Strategy<Value = Vec<Insn>> {
        let insn = (0..CODES.len(), 0..4u8, 0..4u8, prop_oneof![0..64u32, any::<u32>()])
            .prop_map(|(code, jt, jf, k)| Insn { code: CODES[code], jt, jf, k });
        prop::collection::vec(insn, 0..40).prop_map(|mut insns| {
            insns.push(stmt(RET_A, 0));
            insns
        })
    }

    fn data() -> impl Strategy<Value = Data> {
        (any::<i32>(), any::<u32>(), any::<u64>(), any::<[u64; 6]>()).prop_map(
            |(nr, arch, instruction_pointer, args)| Data { nr, arch, instruction_pointer, args },
        )
    }

    proptest! {
        /// No program gets the checker or the interpreter to panic, and one that passed the check
        /// never runs into what the check rules out.
        #[test]
        fn a_checked_program_always_returns(insns in insns(), data in data()) {
            if let Ok(program) = Program::new(insns) {
                prop_assert!(program.execute(|offset| data.word(offset)).is_some());
                prop_assert!(program.translated_len() > program.len());
            }
        }

        /// A constant is what every call gets.
        #[test]
        fn a_constant_holds_for_all_arguments(insns in insns(), data in data()) {
            if let Ok(program) = Program::new(insns)
                && let Some(constant) = program.constant(data.nr, data.arch)
            {
                prop_assert_eq!(program.run(&data), constant);
            }
        }
    }
}
