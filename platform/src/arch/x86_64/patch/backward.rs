//! Decoding backward, which x86 does not allow: is there an instruction boundary at a place?
//!
//! Whoever decodes forward from a wrong place falls into step with the true instructions soon. So
//! every place some way before the one in question votes: decode from there, and see whether the
//! place is hit or jumped over.

use super::instruction::decode;

/// How far before the place the votes begin.
const FAR: usize = 64;

/// How far before the place they end: nearer ones have not had the time to fall into step.
const NEAR: usize = 16;

/// Fewer votes than this decide nothing.
const QUORUM: usize = 8;

/// Whether an instruction very likely begins at `code[place]`.
pub(super) fn is_boundary(code: &[u8], place: usize) -> bool {
    if place > code.len() {
        return false;
    }
    // What decoding from `place - back` comes to: the place, past it, or nothing valid.
    let mut outcome = [None; FAR + 1];
    outcome[0] = Some(true);
    let reach = place.min(FAR);
    for back in 1..=reach {
        let Some(instruction) = code.get(place - back..).and_then(decode) else { continue };
        outcome[back] = match back.checked_sub(instruction.len()) {
            Some(rest) => outcome[rest],
            None => Some(false),
        };
    }
    let votes = outcome.get(NEAR..=reach).unwrap_or(&[]);
    let hits = votes.iter().filter(|v| **v == Some(true)).count();
    let misses = votes.iter().filter(|v| **v == Some(false)).count();
    hits >= QUORUM && hits >= 3 * misses
}
