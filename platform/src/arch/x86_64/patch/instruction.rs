//! Which instructions may run elsewhere than where the guest put them.

use iced_x86::{
    ConditionCode, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory,
    Mnemonic, OpAccess, OpKind, Register,
};

/// The longest an instruction can be.
pub(super) const LONGEST: usize = 15;

/// Decodes one instruction at the head of `bytes`, if it is whole and valid. Nothing that follows
/// depends on its address, so none is given.
pub(super) fn decode(bytes: &[u8]) -> Option<Instruction> {
    let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
    if !decoder.can_decode() {
        return None;
    }
    let instruction = decoder.decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// What the trampoline may repeat, besides instructions that touch general registers and flags
/// only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// Nothing: no swallowed instruction can fault.
    Refused,
    /// Loads and stores that are not relative to `rip`, `push` and `pop`. They can fault, and then
    /// `rip` is in the trampoline.
    Allowed,
}

/// The instruction at the head of `bytes`, if it does the same at any address.
pub(super) fn movable(bytes: &[u8], memory: Memory) -> Option<Instruction> {
    let plain = bytes.iter().find(|b| **b != 0x66).is_some_and(|b| !odd_prefix(*b));
    let instruction = decode(bytes)?;
    (plain && harmless(&instruction, memory) && operands_are_plain(&instruction, memory))
        .then_some(instruction)
}

/// A legacy prefix other than the operand size: nothing a compiler puts on the instructions that
/// [`harmless`] lists.
fn odd_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x67 | 0xf0 | 0xf2 | 0xf3)
}

/// Whether the instruction cannot fault but for its memory operand, does not branch, and reads
/// nothing but its operands and the flags. All of it is in the base x86-64 set. `nop` is not here:
/// it is mostly there to align what follows, which then is where a jump leads.
fn harmless(instruction: &Instruction, memory: Memory) -> bool {
    use Mnemonic::*;
    match instruction.mnemonic() {
        Mov | Movzx | Movsx | Movsxd | Lea | Xchg | Add | Sub | Adc | Sbb | And | Or | Xor
        | Cmp | Test | Not | Neg | Inc | Dec | Imul | Shl | Sal | Shr | Sar | Rol | Ror | Bswap
        | Bt | Cwde | Cdqe | Cdq | Cqo => true,
        Push | Pop => memory == Memory::Allowed,
        // cmovcc and setcc.
        _ => {
            instruction.condition_code() != ConditionCode::None
                && instruction.flow_control() == FlowControl::Next
        }
    }
}

/// Whether all operands are general registers, constants, and memory where that is allowed. `lea`
/// has a memory operand that it does not access.
fn operands_are_plain(instruction: &Instruction, memory: Memory) -> bool {
    let addressed = memory == Memory::Allowed || instruction.mnemonic() == Mnemonic::Lea;
    (0..instruction.op_count()).all(|i| match instruction.op_kind(i) {
        OpKind::Register => instruction.op_register(i).is_gpr(),
        OpKind::Immediate8
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate64
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => true,
        OpKind::Memory => addressed && !instruction.is_ip_rel_memory_operand(),
        _ => false,
    })
}

/// What an instruction does to rax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rax {
    /// Leaves it.
    Kept,
    /// Gives it a value that is known.
    Set(u64),
    /// Gives it some value.
    Written,
}

/// What the instruction does to rax.
pub(super) fn effect_on_rax(instruction: &Instruction) -> Rax {
    let whole = matches!(instruction.op0_register(), Register::EAX | Register::RAX);
    match (instruction.mnemonic(), instruction.op1_kind()) {
        (Mnemonic::Mov, OpKind::Immediate32 | OpKind::Immediate64 | OpKind::Immediate32to64)
            if whole =>
        {
            return Rax::Set(instruction.immediate(1));
        }
        (Mnemonic::Xor, OpKind::Register)
            if whole && instruction.op0_register() == instruction.op1_register() =>
        {
            return Rax::Set(0);
        }
        _ => {}
    }
    let mut factory = InstructionInfoFactory::new();
    let written = factory.info(instruction).used_registers().iter().any(|used| {
        used.register().full_register() == Register::RAX
            && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None)
    });
    if written { Rax::Written } else { Rax::Kept }
}
