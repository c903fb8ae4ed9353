//! Which instructions may run elsewhere than where the guest put them.

use iced_x86::{
    ConditionCode, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind,
};

/// Decodes one instruction at the head of `bytes`, if it is whole and valid. No instruction is
/// decoded relative to its address, so none is needed.
pub(super) fn decode(bytes: &[u8]) -> Option<Instruction> {
    let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
    if !decoder.can_decode() {
        return None;
    }
    let instruction = decoder.decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// The length of the instruction at the head of `bytes`, if it does the same at any address and
/// cannot fault: it touches general registers and flags only.
pub(super) fn movable(bytes: &[u8]) -> Option<usize> {
    let instruction = decode(bytes)?;
    let plain = bytes.iter().find(|b| **b != 0x66).is_some_and(|b| !odd_prefix(*b));
    (plain && harmless(&instruction) && operands_are_registers(&instruction))
        .then(|| instruction.len())
}

/// A legacy prefix other than the operand size: nothing a compiler puts on the instructions that
/// [`harmless`] lists.
fn odd_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x67 | 0xf0 | 0xf2 | 0xf3)
}

/// Whether the instruction, with register operands, cannot fault, does not branch, and reads
/// nothing but its operands and the flags. All of it is in the base x86-64 set.
fn harmless(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(
        instruction.mnemonic(),
        Mov | Movzx | Movsx | Movsxd | Lea | Xchg | Nop
            | Add | Sub | Adc | Sbb | And | Or | Xor | Cmp | Test | Not | Neg | Inc | Dec | Imul
            | Shl | Sal | Shr | Sar | Rol | Ror | Bswap | Bt
            | Cwde | Cdqe | Cdq | Cqo
    )
        // cmovcc and setcc.
        || (instruction.condition_code() != ConditionCode::None
            && instruction.flow_control() == FlowControl::Next)
}

/// Whether all operands are general registers or constants. `lea` and `nop` have a memory operand
/// that they do not access.
fn operands_are_registers(instruction: &Instruction) -> bool {
    let addresses_only = matches!(instruction.mnemonic(), Mnemonic::Lea | Mnemonic::Nop);
    instruction.op_kinds().enumerate().all(|(i, kind)| match kind {
        OpKind::Register => instruction.op_register(i as u32).is_gpr(),
        OpKind::Immediate8
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate64
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => true,
        OpKind::Memory => addresses_only && !instruction.is_ip_rel_memory_operand(),
        _ => false,
    })
}
