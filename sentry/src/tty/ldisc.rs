//! The N_TTY line discipline (termios(3), drivers/tty/n_tty.c): what happens to bytes between the
//! master side of a terminal and the programs on the slave side.
//!
//! Pure: bytes in, bytes and [`Effects`] out. Locking, waiting and signals are [`super::pty`]'s.

use std::collections::VecDeque;

use super::termios::Termios;

/// Bytes of input that are kept (N_TTY_BUF_SIZE); in canonical mode one less can be typed in a line.
pub const INPUT_MAX: usize = 4096;
/// Bytes of output that wait for the master to read them.
pub const OUTPUT_MAX: usize = 8192;

/// What the caller has to do after input was processed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Signal to send to the foreground process group.
    pub signal: Option<i32>,
    /// Readers may find something new.
    pub readable: bool,
    /// The master may find something new to read.
    pub output: bool,
    /// Writers stopped by flow control, or for lack of room, may go on.
    pub writable: bool,
}

/// The state between the two sides of a terminal.
#[derive(Default)]
pub struct LineDiscipline {
    termios: Termios,
    /// Input that a read may take: raw bytes, or whole lines in canonical mode.
    cooked: VecDeque<u8>,
    /// Where each complete line in `cooked` ends, counted from its start (canonical mode). An end of
    /// file is a line whose last byte, the EOF character, is not delivered.
    lines: VecDeque<Line>,
    /// The line being edited.
    editing: Vec<u8>,
    /// What waits for the master.
    output: VecDeque<u8>,
    /// Column of the cursor, for tabs and erasing.
    column: usize,
    /// Column at which the line being edited began.
    start_column: usize,
    /// Output is stopped (Ctrl-S, TCOOFF).
    stopped: bool,
    /// The next byte is taken literally (Ctrl-V).
    literal: bool,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    len: usize,
}

impl LineDiscipline {
    /// The settings.
    pub fn termios(&self) -> &Termios {
        &self.termios
    }

    /// Changes the settings. Leaving canonical mode hands out what was being edited; entering it
    /// makes one line of what is there (as n_tty_set_termios does).
    pub fn set_termios(&mut self, new: Termios) -> Effects {
        let was = self.termios.local(libc::ICANON);
        self.termios = new;
        let is = new.local(libc::ICANON);
        let mut effects = Effects { writable: true, ..Effects::default() };
        if was && !is {
            self.cooked.extend(self.editing.drain(..));
            self.lines.clear();
            effects.readable = true;
        } else if !was && is && !self.cooked.is_empty() {
            self.lines.push_back(Line { len: self.cooked.len() });
        }
        if !new.input(libc::IXON) {
            self.stopped = false;
        }
        effects
    }

    /// Bytes that a read could take now (FIONREAD, poll).
    pub fn readable(&self) -> usize {
        if self.termios.local(libc::ICANON) {
            self.lines.iter().map(|l| l.len).sum()
        } else {
            self.cooked.len()
        }
    }

    /// Whether a read would return: in canonical mode a line, perhaps an empty one (end of file).
    pub fn has_input(&self) -> bool {
        if self.termios.local(libc::ICANON) {
            !self.lines.is_empty()
        } else {
            self.cooked.len() >= usize::from(self.termios.cc[libc::VMIN]).max(1)
                || (self.termios.cc[libc::VMIN] == 0 && !self.cooked.is_empty())
        }
    }

    /// Takes up to `max` bytes of input. `None` if the reader has to wait. `min` is how many bytes
    /// a raw read waits for; the caller has cut it to its buffer.
    pub fn read(&mut self, max: usize, min: usize) -> Option<Vec<u8>> {
        if self.termios.local(libc::ICANON) {
            let line = self.lines.front_mut()?;
            let len = line.len.min(max);
            line.len -= len;
            if line.len == 0 && (len > 0 || max > 0) {
                self.lines.pop_front();
            }
            return Some(self.cooked.drain(..len.min(self.cooked.len())).collect());
        }
        if self.cooked.len() < min {
            return None;
        }
        let len = max.min(self.cooked.len());
        Some(self.cooked.drain(..len).collect())
    }

    /// Room for input from the master. A canonical line that is full swallows the rest of what is
    /// typed, as Linux does, so that an end of line still gets through.
    pub fn input_room(&self) -> usize {
        let used = self.cooked.len() + self.editing.len();
        if self.termios.local(libc::ICANON) && self.lines.is_empty() {
            INPUT_MAX
        } else {
            (INPUT_MAX - 1).saturating_sub(used)
        }
    }

    /// Bytes come from the master, as if typed.
    pub fn receive(&mut self, bytes: &[u8]) -> Effects {
        let mut effects = Effects::default();
        let before = self.output.len();
        for &byte in bytes {
            self.receive_byte(byte, &mut effects);
        }
        effects.output |= self.output.len() != before;
        effects
    }

    fn receive_byte(&mut self, mut byte: u8, effects: &mut Effects) {
        let t = self.termios;
        if t.input(libc::ISTRIP) {
            byte &= 0x7f;
        }
        if t.input(libc::IUCLC) && t.local(libc::IEXTEN) {
            byte = byte.to_ascii_lowercase();
        }
        if std::mem::take(&mut self.literal) {
            self.echo_byte(byte);
            self.accept(byte, effects);
            return;
        }
        if t.input(libc::IXON) {
            if t.is_cc(libc::VSTART, byte) {
                self.stopped = false;
                effects.writable = true;
                effects.output = true;
                return;
            }
            if t.is_cc(libc::VSTOP, byte) {
                self.stopped = true;
                return;
            }
        }
        if t.local(libc::ISIG) {
            let signal = [
                (libc::VINTR, libc::SIGINT),
                (libc::VQUIT, libc::SIGQUIT),
                (libc::VSUSP, libc::SIGTSTP),
            ]
            .into_iter()
            .find(|&(index, _)| t.is_cc(index, byte));
            if let Some((_, signo)) = signal {
                effects.signal = Some(signo);
                if !t.local(libc::NOFLSH) {
                    self.flush_input();
                    self.output.clear();
                    effects.writable = true;
                }
                self.restart(effects);
                self.echo_byte(byte);
                return;
            }
        }
        if self.stopped && t.input(libc::IXANY) && t.input(libc::IXON) {
            self.restart(effects);
        }
        match byte {
            b'\r' if t.input(libc::IGNCR) => return,
            b'\r' if t.input(libc::ICRNL) => byte = b'\n',
            b'\n' if t.input(libc::INLCR) => byte = b'\r',
            _ => {}
        }
        if t.local(libc::ICANON) {
            self.receive_canonical(byte, effects);
        } else {
            self.echo_byte(byte);
            self.accept(byte, effects);
        }
    }

    fn restart(&mut self, effects: &mut Effects) {
        if std::mem::take(&mut self.stopped) {
            effects.writable = true;
            effects.output = true;
        }
    }

    fn receive_canonical(&mut self, byte: u8, effects: &mut Effects) {
        let t = self.termios;
        let extended = t.local(libc::IEXTEN);
        if t.is_cc(libc::VERASE, byte) {
            self.erase_char();
        } else if t.is_cc(libc::VWERASE, byte) && extended {
            self.erase_word();
        } else if t.is_cc(libc::VKILL, byte) {
            self.kill_line(byte);
        } else if t.is_cc(libc::VLNEXT, byte) && extended {
            self.literal = true;
            if t.local(libc::ECHO) && t.local(libc::ECHOCTL) {
                self.put(b"^\x08");
            }
        } else if t.is_cc(libc::VREPRINT, byte) && extended && t.local(libc::ECHO) {
            self.echo_control(byte);
            self.put_processed(b"\n");
            for byte in self.editing.clone() {
                self.echo_byte(byte);
            }
        } else if byte == b'\n' {
            if t.local(libc::ECHO) || t.local(libc::ECHONL) {
                self.put_processed(b"\n");
            }
            self.finish_line(Some(byte), effects);
        } else if t.is_cc(libc::VEOF, byte) {
            self.finish_line(None, effects);
        } else if t.is_cc(libc::VEOL, byte) || (t.is_cc(libc::VEOL2, byte) && extended) {
            self.echo_byte(byte);
            self.finish_line(Some(byte), effects);
        } else {
            if self.editing.is_empty() {
                self.start_column = self.column;
            }
            if self.cooked.len() + self.editing.len() < INPUT_MAX - 1 {
                self.echo_byte(byte);
                self.editing.push(byte);
            } else if t.input(libc::IMAXBEL) {
                self.put(b"\x07");
            }
        }
    }

    fn finish_line(&mut self, end: Option<u8>, effects: &mut Effects) {
        self.editing.extend(end);
        self.lines.push_back(Line { len: self.editing.len() });
        self.cooked.extend(self.editing.drain(..));
        effects.readable = true;
    }

    /// Takes a byte as it is: into the line, or straight to the reader.
    fn accept(&mut self, byte: u8, effects: &mut Effects) {
        if self.termios.local(libc::ICANON) {
            if self.cooked.len() + self.editing.len() < INPUT_MAX - 1 {
                self.editing.push(byte);
            }
        } else if self.cooked.len() < INPUT_MAX {
            self.cooked.push_back(byte);
            effects.readable = true;
        }
    }

    fn erase_char(&mut self) {
        // A UTF-8 character goes as a whole.
        let utf8 = self.termios.input(libc::IUTF8);
        let mut erased = Vec::new();
        while let Some(byte) = self.editing.pop() {
            erased.push(byte);
            if !utf8 || byte & 0xc0 != 0x80 {
                break;
            }
        }
        if let Some(&first) = erased.last() {
            self.echo_erase(first);
        }
    }

    fn erase_word(&mut self) {
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let mut seen_word = false;
        while let Some(&byte) = self.editing.last() {
            if is_word(byte) {
                seen_word = true;
            } else if seen_word {
                break;
            }
            self.erase_char();
        }
    }

    fn kill_line(&mut self, byte: u8) {
        if !self.termios.local(libc::ECHO) {
            self.editing.clear();
        } else if self.termios.local(libc::ECHOK)
            && self.termios.local(libc::ECHOKE)
            && self.termios.local(libc::ECHOE)
        {
            while !self.editing.is_empty() {
                self.erase_char();
            }
        } else {
            self.editing.clear();
            self.echo_byte(byte);
            if self.termios.local(libc::ECHOK) {
                self.put_processed(b"\n");
            }
        }
    }

    fn echo_erase(&mut self, byte: u8) {
        if !self.termios.local(libc::ECHO) {
            return;
        }
        if !self.termios.local(libc::ECHOE) {
            let erase = self.termios.cc[libc::VERASE];
            self.echo_byte(erase);
            return;
        }
        let width = if byte == b'\t' {
            let before = self.width_before_tab();
            self.column.saturating_sub(before)
        } else if byte.is_ascii_control() {
            if self.termios.local(libc::ECHOCTL) { 2 } else { 0 }
        } else {
            1
        };
        for _ in 0..width {
            self.put(b"\x08 \x08");
            self.column = self.column.saturating_sub(1);
        }
    }

    /// The column at the end of what is left of the line being edited.
    fn width_before_tab(&self) -> usize {
        self.editing.iter().fold(self.start_column, |column, &byte| match byte {
            b'\t' => (column | 7) + 1,
            b if b.is_ascii_control() => {
                column + 2 * usize::from(self.termios.local(libc::ECHOCTL))
            }
            b if b & 0xc0 == 0x80 && self.termios.input(libc::IUTF8) => column,
            _ => column + 1,
        })
    }

    fn echo_byte(&mut self, byte: u8) {
        if !self.termios.local(libc::ECHO) {
            return;
        }
        if byte.is_ascii_control()
            && self.termios.local(libc::ECHOCTL)
            && byte != b'\t'
            && byte != b'\n'
        {
            self.echo_control(byte);
        } else {
            self.put_processed(&[byte]);
        }
    }

    fn echo_control(&mut self, byte: u8) {
        self.put(&[b'^', byte ^ 0x40]);
        self.column += 2;
    }

    /// Echo is never refused for lack of room, but bounded.
    fn put(&mut self, bytes: &[u8]) {
        if self.output.len() + bytes.len() <= OUTPUT_MAX * 2 {
            self.output.extend(bytes);
        }
    }

    fn put_processed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.output.len() + 8 <= OUTPUT_MAX * 2 {
                self.process_output(byte);
            }
        }
    }

    /// A program writes. Returns the bytes taken; 0 if output is stopped or full.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        if self.stopped {
            return 0;
        }
        let mut taken = 0;
        for &byte in bytes {
            // One byte makes at most eight (a tab).
            if self.output.len() + 8 > OUTPUT_MAX {
                break;
            }
            self.process_output(byte);
            taken += 1;
        }
        taken
    }

    /// Whether a write would take something.
    pub fn writable(&self) -> bool {
        !self.stopped && self.output.len() + 8 <= OUTPUT_MAX
    }

    fn process_output(&mut self, byte: u8) {
        let t = self.termios;
        if !t.output(libc::OPOST) {
            self.output.push_back(byte);
            return;
        }
        match byte {
            b'\n' => {
                if t.output(libc::ONLCR) {
                    self.output.push_back(b'\r');
                    self.column = 0;
                } else if t.output(libc::ONLRET) {
                    self.column = 0;
                }
                self.output.push_back(b'\n');
            }
            b'\r' if t.output(libc::ONOCR) && self.column == 0 => {}
            b'\r' if t.output(libc::OCRNL) => {
                if t.output(libc::ONLRET) {
                    self.column = 0;
                }
                self.output.push_back(b'\n');
            }
            b'\r' => {
                self.column = 0;
                self.output.push_back(b'\r');
            }
            b'\t' => {
                let spaces = 8 - (self.column & 7);
                self.column += spaces;
                if t.oflag & libc::TABDLY == libc::XTABS {
                    self.output.extend(std::iter::repeat_n(b' ', spaces));
                } else {
                    self.output.push_back(b'\t');
                }
            }
            0x08 => {
                self.column = self.column.saturating_sub(1);
                self.output.push_back(byte);
            }
            _ => {
                let byte = if t.output(libc::OLCUC) { byte.to_ascii_uppercase() } else { byte };
                let continues = byte & 0xc0 == 0x80 && t.input(libc::IUTF8);
                if !byte.is_ascii_control() && !continues {
                    self.column += 1;
                }
                self.output.push_back(byte);
            }
        }
    }

    /// The master reads what was written and echoed.
    pub fn take_output(&mut self, max: usize) -> Vec<u8> {
        if self.stopped {
            return Vec::new();
        }
        let len = max.min(self.output.len());
        self.output.drain(..len).collect()
    }

    /// Bytes that the master could read.
    pub fn output_len(&self) -> usize {
        if self.stopped { 0 } else { self.output.len() }
    }

    /// Drops input that was not read (TCIFLUSH).
    pub fn flush_input(&mut self) {
        self.cooked.clear();
        self.lines.clear();
        self.editing.clear();
    }

    /// Drops output that was not read (TCOFLUSH).
    pub fn flush_output(&mut self) {
        self.output.clear();
    }

    /// Stops or restarts output (tcflow(3)).
    pub fn set_stopped(&mut self, stopped: bool) {
        self.stopped = stopped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(l: &mut LineDiscipline) -> String {
        String::from_utf8_lossy(&l.take_output(usize::MAX)).into_owned()
    }

    #[test]
    fn a_line_is_edited_echoed_and_read_once_it_is_complete() {
        let mut l = LineDiscipline::default();
        assert!(!l.receive(b"helo").readable);
        assert_eq!(l.read(100, 1), None);
        assert!(l.receive(b"\x7flo\r").readable);
        assert_eq!(output(&mut l), "helo\x08 \x08lo\r\n");
        assert_eq!(l.read(3, 1).unwrap(), b"hel");
        assert_eq!(l.read(100, 1).unwrap(), b"lo\n");
        assert_eq!(l.read(100, 1), None);
    }

    #[test]
    fn end_of_file_is_an_empty_read_and_ends_a_partial_line() {
        let mut l = LineDiscipline::default();
        l.receive(b"ab\x04\x04");
        assert_eq!(l.read(100, 1).unwrap(), b"ab");
        assert!(l.has_input());
        assert_eq!(l.read(100, 1).unwrap(), b"");
        assert_eq!(l.read(100, 1), None);
    }

    #[test]
    fn control_characters_signal_and_flush() {
        let mut l = LineDiscipline::default();
        let effects = l.receive(b"junk\x03");
        assert_eq!(effects.signal, Some(libc::SIGINT));
        assert_eq!(output(&mut l), "^C");
        l.receive(b"\n");
        assert_eq!(l.read(10, 1).unwrap(), b"\n");
    }

    #[test]
    fn words_and_lines_are_killed() {
        let mut l = LineDiscipline::default();
        l.receive(b"one two\x17x\x15y\n");
        assert_eq!(l.read(100, 1).unwrap(), b"y\n");
        l.receive(b"one two  \x17\n");
        assert_eq!(l.read(100, 1).unwrap(), b"one \n");
    }

    #[test]
    fn raw_mode_waits_for_vmin_and_does_not_echo() {
        let mut l = LineDiscipline::default();
        let mut raw = *l.termios();
        raw.lflag = 0;
        raw.oflag = 0;
        raw.iflag = 0;
        l.receive(b"par");
        l.set_termios(raw);
        output(&mut l);
        assert_eq!(l.read(10, 1).unwrap(), b"par");
        assert_eq!(l.read(10, 1), None);
        l.receive(b"\x03\r\x04");
        assert_eq!(l.read(10, 4), None);
        assert_eq!(l.read(10, 3).unwrap(), b"\x03\r\x04");
        assert_eq!(output(&mut l), "");
    }

    #[test]
    fn output_is_processed_and_flow_controlled() {
        let mut l = LineDiscipline::default();
        assert_eq!(l.write(b"a\n\tb"), 4);
        assert_eq!(output(&mut l), "a\r\n\tb");
        l.receive(b"\x13");
        assert_eq!(l.write(b"x"), 0);
        assert!(l.receive(b"\x11").writable);
        assert_eq!(l.write(b"x"), 1);
    }

    #[test]
    fn floods_are_bounded() {
        let mut l = LineDiscipline::default();
        l.receive(&[b'x'; 100_000]);
        l.receive(b"\n");
        assert!(l.read(usize::MAX, 1).unwrap().len() <= INPUT_MAX);
        assert!(l.output_len() <= OUTPUT_MAX * 2);
        let big = vec![b'\t'; 100_000];
        assert!(l.write(&big) < OUTPUT_MAX);
    }
}
