//! The `#!` line (`fs/binfmt_script.c`).

use abi::Errno;

/// What a `#!` line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ScriptLine<'a> {
    /// Path of the interpreter.
    pub(super) interpreter: &'a [u8],
    /// The one argument: the rest of the line, blanks inside it kept.
    pub(super) argument: Option<&'a [u8]>,
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn is_terminator(byte: u8) -> bool {
    is_blank(byte) || byte == 0
}

/// Parses the head of a file that starts with `#!`, padded with NULs. `ENOEXEC` if there is no
/// interpreter, or its path may be cut off.
pub(super) fn parse(head: &[u8]) -> Result<ScriptLine<'_>, Errno> {
    // Linux looks at all but the last byte of its buffer.
    let (_, text) = head.split_last().ok_or(Errno::ENOEXEC)?;
    let text = text.strip_prefix(b"#!").ok_or(Errno::ENOEXEC)?;
    let line = match text.iter().position(|byte| *byte == b'\n') {
        Some(end) => text.get(..end).unwrap_or(text),
        None => {
            let start = text.iter().position(|byte| !is_blank(*byte)).ok_or(Errno::ENOEXEC)?;
            let name = text.get(start..).unwrap_or_default();
            if !name.iter().any(|byte| is_terminator(*byte)) {
                return Err(Errno::ENOEXEC);
            }
            text
        }
    };
    let end = line.iter().rposition(|byte| !is_blank(*byte)).map_or(0, |last| last + 1);
    let line = line.get(..end).unwrap_or_default();
    let start = line.iter().position(|byte| !is_blank(*byte)).ok_or(Errno::ENOEXEC)?;
    let line = line.get(start..).unwrap_or_default();
    let Some(stop) = line.iter().position(|byte| is_terminator(*byte)) else {
        return Ok(ScriptLine { interpreter: line, argument: None });
    };
    let (interpreter, rest) = line.split_at_checked(stop).unwrap_or((line, &[]));
    if rest.first() == Some(&0) {
        return Ok(ScriptLine { interpreter, argument: None });
    }
    let argument = rest
        .iter()
        .position(|byte| !is_blank(*byte))
        .and_then(|start| rest.get(start..))
        .map(|argument| argument.split(|byte| *byte == 0).next().unwrap_or_default());
    Ok(ScriptLine { interpreter, argument })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &[u8]) -> [u8; 256] {
        let mut head = [0; 256];
        let len = text.len().min(256);
        head[..len].copy_from_slice(&text[..len]);
        head
    }

    #[track_caller]
    fn check(text: &[u8], expected: Result<(&[u8], Option<&[u8]>), Errno>) {
        let head = head(text);
        let found = parse(&head).map(|line| (line.interpreter, line.argument));
        assert_eq!(found, expected);
    }

    #[test]
    fn lines() {
        check(b"#!/bin/sh\n", Ok((b"/bin/sh", None)));
        check(b"#! \t/bin/sh \t\n", Ok((b"/bin/sh", None)));
        check(b"#!/usr/bin/env  a  b \nrest", Ok((b"/usr/bin/env", Some(b"a  b"))));
        check(b"#!/bin/sh", Ok((b"/bin/sh", None)));
        check(b"#!/bin/sh\0x\n", Ok((b"/bin/sh", None)));
        check(b"#!\n", Err(Errno::ENOEXEC));
        check(b"#!   \t \n", Err(Errno::ENOEXEC));
    }

    #[test]
    fn long_lines() {
        let mut long = b"#!/".to_vec();
        long.resize(300, b'x');
        check(&long, Err(Errno::ENOEXEC));
        let mut cut = b"#!/bin/sh ".to_vec();
        cut.resize(300, b'a');
        check(&cut, Ok((b"/bin/sh", Some(&[b'a'; 245]))));
    }
}
