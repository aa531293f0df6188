//! Instructions as text.

use iced_x86::{Instruction, OpKind};

use super::image::Code;

/// An instruction as text: the same for two encodings of the same instruction.
pub fn text(code: &Code, instruction: &Instruction) -> String {
    let operand = |index| match instruction.op_kind(index) {
        OpKind::Register => format!("{:?}", instruction.op_register(index)),
        OpKind::NearBranch64 => code.target(instruction),
        OpKind::Memory if instruction.is_ip_rel_memory_operand() => format!("[{}]", code.target(instruction)),
        OpKind::Memory => format!(
            "{:?}[{:?} + {} * {:?} + {:#x}]",
            instruction.memory_size(),
            instruction.memory_base(),
            instruction.memory_index_scale(),
            instruction.memory_index(),
            instruction.memory_displacement64()
        ),
        _ => format!("{:#x}", instruction.immediate(index)),
    };
    let operands: Vec<_> = (0..instruction.op_count()).map(operand).collect();
    let lock = if instruction.has_lock_prefix() { "lock " } else { "" };
    format!("{lock}{:?} {}", instruction.mnemonic(), operands.join(", "))
}
