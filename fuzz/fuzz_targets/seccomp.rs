//! Seccomp profiles and filter programs: what is accepted as a profile compiles to a program that
//! passes the check; a program that passes the check runs to its end, and says about a call what it
//! says about all of them, if it says that. The first byte chooses which of the two it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rsentry::seccomp::{Guest, parse};
use sentry::kernel::seccomp::ARCH;
use sentry::kernel::seccomp::bpf::{Data, Insn, Program};

fn data(bytes: &[u8]) -> Data {
    let word = |at: usize| {
        let bytes = bytes.get(8 * at..8 * at + 8).and_then(|b| b.try_into().ok());
        u64::from_le_bytes(bytes.unwrap_or_default())
    };
    let args = [1, 2, 3, 4, 5, 6].map(word);
    Data { nr: word(0) as i32, arch: ARCH, instruction_pointer: word(7), args }
}

fn program(bytes: &[u8]) -> Vec<Insn> {
    let insn = |b: &[u8]| Insn {
        code: u16::from_le_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
    };
    bytes.chunks_exact(8).map(insn).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    if kind % 2 == 0 {
        if let Ok(compiled) = parse(rest, &Guest::with_uid(u32::from(*kind))) {
            assert!(Program::new(compiled.spec.program).is_ok());
        }
        return;
    }
    let (head, tail) = rest.split_at(rest.len().min(64));
    let call = data(head);
    if let Ok(program) = Program::new(program(tail)) {
        let said = program.run(&call);
        if let Some(always) = program.constant(call.nr, call.arch) {
            assert_eq!(said, always);
        }
    }
});
