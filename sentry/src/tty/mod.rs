//! Terminals: the line discipline ([`ldisc`]), pseudo-terminals ([`pty`]) and the calls on them.

pub mod ldisc;
pub mod termios;
