//! From a profile to a filter program, as libseccomp builds it: the architecture, the x32 bit, calls
//! that are newer than the profile, then one call after the other.

use sentry::kernel::seccomp::bpf::{Insn, MAX_INSNS, code};
use sentry::kernel::seccomp::{ARCH, Action};

use super::profile::{Call, Condition, ENOSYS, Op, Profile, Verdict};

/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGS: u32 = 16;
/// `__X32_SYSCALL_BIT`
const X32_BIT: u32 = 0x4000_0000;

fn stmt(code: u16, k: u32) -> Insn {
    Insn { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Insn {
    Insn { code, jt, jf, k }
}

fn ret(verdict: Verdict) -> Insn {
    stmt(code::RET_K, verdict.value())
}

/// The program; an error if it is longer than Linux takes.
pub(super) fn compile(profile: &Profile) -> Result<Vec<Insn>, String> {
    let kill = Verdict { action: Action::KillThread, data: 0 };
    let unknown = Verdict { action: Action::Errno, data: ENOSYS };
    let mut out = vec![
        stmt(code::LD_W_ABS, ARCHITECTURE),
        jump(code::JEQ_K, ARCH, 1, 0),
        ret(kill),
        stmt(code::LD_W_ABS, NR),
        // -1 is no x32 call, but one that a tracer took away.
        jump(code::JEQ_K, u32::MAX, 0, 1),
        ret(profile.default),
        jump(code::JGE_K, X32_BIT, 0, 1),
        // The guest's kernel has none of them.
        ret(if profile.x32 { unknown } else { kill }),
    ];
    if let Some(newest) = profile.newest {
        out.extend([jump(code::JGT_K, newest, 0, 1), ret(unknown)]);
    }
    for (nr, call) in &profile.calls {
        match call.always {
            Some(verdict) => out.extend([jump(code::JEQ_K, *nr, 0, 1), ret(verdict)]),
            None => {
                let body = body(call, profile.default);
                // Longer than a conditional jump reaches.
                out.extend([jump(code::JEQ_K, *nr, 1, 0), stmt(code::JA, body.len() as u32)]);
                out.extend(body);
            }
        }
        if out.len() >= MAX_INSNS {
            return Err(format!("syscalls: takes more than {MAX_INSNS} instructions"));
        }
    }
    out.push(ret(profile.default));
    Ok(out)
}

/// All rules of a call, the first one that holds first.
fn body(call: &Call, default: Verdict) -> Vec<Insn> {
    let mut out = Vec::new();
    for (conditions, verdict) in &call.rules {
        out.extend(rule(conditions, *verdict));
    }
    out.push(ret(default));
    out
}

/// Where a test goes.
#[derive(Clone, Copy)]
enum To {
    /// To the next instruction.
    Next,
    /// The condition holds: behind it.
    Holds,
    /// It does not: behind the rule.
    Fails,
}

/// Loads a word, and looks at it.
enum Step {
    Load(u32),
    Mask(u32),
    Test(u16, u32, To, To),
}

fn rule(conditions: &[Condition], verdict: Verdict) -> Vec<Insn> {
    let all: Vec<Vec<Step>> = conditions.iter().map(steps).collect();
    let total: usize = all.iter().map(Vec::len).sum();
    let mut out = Vec::with_capacity(total.saturating_add(1));
    let mut end = 0usize;
    for steps in all {
        end = end.saturating_add(steps.len());
        for step in steps {
            // Each argument is in one condition of at most five steps: no more than a byte holds.
            let from_here = |at: usize| at.saturating_sub(out.len() + 1) as u8;
            let distance = |to: To| match to {
                To::Next => 0,
                To::Holds => from_here(end),
                To::Fails => from_here(total + 1),
            };
            let insn = match step {
                Step::Load(offset) => stmt(code::LD_W_ABS, offset),
                Step::Mask(mask) => stmt(code::AND_K, mask),
                Step::Test(code, k, yes, no) => jump(code, k, distance(yes), distance(no)),
            };
            out.push(insn);
        }
    }
    out.push(ret(verdict));
    out
}

/// The upper half decides, unless it is the same.
fn steps(condition: &Condition) -> Vec<Step> {
    use To::{Fails, Holds, Next};
    let Condition { index, op, value, value_two } = *condition;
    let low = ARGS + 8 * index;
    let high = low + 4;
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (h, l) = halves(value);
    let (load_high, load_low) = (Step::Load(high), Step::Load(low));
    let ordered = |above: To, below: To, code: u16, yes: To, no: To| {
        vec![
            Step::Load(high),
            Step::Test(code::JGT_K, h, above, Next),
            Step::Test(code::JEQ_K, h, Next, below),
            Step::Load(low),
            Step::Test(code, l, yes, no),
        ]
    };
    match op {
        Op::Eq => vec![
            load_high,
            Step::Test(code::JEQ_K, h, Next, Fails),
            load_low,
            Step::Test(code::JEQ_K, l, Holds, Fails),
        ],
        Op::Ne => vec![
            load_high,
            Step::Test(code::JEQ_K, h, Next, Holds),
            load_low,
            Step::Test(code::JEQ_K, l, Fails, Holds),
        ],
        Op::Gt => ordered(Holds, Fails, code::JGT_K, Holds, Fails),
        Op::Ge => ordered(Holds, Fails, code::JGE_K, Holds, Fails),
        Op::Lt => ordered(Fails, Holds, code::JGE_K, Fails, Holds),
        Op::Le => ordered(Fails, Holds, code::JGT_K, Fails, Holds),
        Op::MaskedEq => {
            // Bits that the mask hides are hidden on both sides.
            let (wanted_high, wanted_low) = halves(value_two & value);
            vec![
                load_high,
                Step::Mask(h),
                Step::Test(code::JEQ_K, wanted_high, Next, Fails),
                load_low,
                Step::Mask(l),
                Step::Test(code::JEQ_K, wanted_low, Holds, Fails),
            ]
        }
    }
}
