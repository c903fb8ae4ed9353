//! The launcher's end of the control channel.
//!
//! The Sentry may have been taken over: what it says out of turn ends the sandbox, and that it does
//! not listen holds nothing up. What cannot be sent yet waits in a list that is bounded by what there
//! is to say: of each kind of message only the last counts, of each signal one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sentry::boot::control::{self, FromSentry, ToSentry};

use crate::error::Error;

/// The channel, and what has been said on it.
pub(super) struct Conversation {
    socket: OwnedFd,
    turn: Turn,
    /// What the Sentry has not taken yet.
    unsent: Vec<ToSentry>,
}

/// Whose turn it is to say what.
#[derive(Debug, Default)]
struct Turn {
    started: bool,
    /// Suspensions that were asked for and not answered.
    suspending: u32,
}

impl Turn {
    fn asked(&mut self, message: &ToSentry) {
        if *message == ToSentry::Suspend {
            self.suspending = self.suspending.saturating_add(1);
        }
    }

    /// Whether the Sentry may say that now.
    fn heard(&mut self, message: &FromSentry) -> Result<(), &'static str> {
        match message {
            FromSentry::Started { .. } if !self.started => self.started = true,
            FromSentry::Started { .. } => return Err("that the program was started, again"),
            FromSentry::Failed(_) if self.started => {
                return Err("that the start had failed, later");
            }
            FromSentry::Exited(_) if !self.started => return Err("the end before the start"),
            FromSentry::Failed(_) | FromSentry::Exited(_) => {}
            FromSentry::Suspended => match self.suspending.checked_sub(1) {
                Some(left) => self.suspending = left,
                None => return Err("that it was suspended, unasked"),
            },
        }
        Ok(())
    }
}

impl Conversation {
    pub(super) fn new(socket: OwnedFd) -> Conversation {
        Conversation { socket, turn: Turn::default(), unsent: Vec::new() }
    }

    /// What to wait for: also for room, if something is waiting for that.
    pub(super) fn fd(&self) -> (BorrowedFd<'_>, bool) {
        (self.socket.as_fd(), !self.unsent.is_empty())
    }

    /// The next message, `None` at the end. Only called if there is one.
    pub(super) fn hear(&mut self) -> Result<Option<FromSentry>, Error> {
        let mut received = control::receive::<FromSentry>(&self.socket);
        // It died with messages of ours unread. Linux says that first, and once; what it has said
        // before comes after.
        if matches!(&received, Err(error) if error.kind() == io::ErrorKind::ConnectionReset) {
            received = control::receive(&self.socket);
        }
        match received {
            Ok(Some(message)) => match self.turn.heard(&message) {
                Ok(()) => Ok(Some(message)),
                Err(what) => Err(Error::Violation(format!("the sentry said {what}"))),
            },
            Ok(None) => Ok(None),
            Err(error) => Err(Error::Violation(format!("the sentry sent nonsense: {error}"))),
        }
    }

    /// Sends a message, now or when there is room. If the Sentry is gone the poll loop will notice.
    pub(super) fn tell(&mut self, message: ToSentry) {
        self.turn.asked(&message);
        enqueue(&mut self.unsent, message);
        self.flush();
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn flush(&mut self) {
        while let Some(message) = self.unsent.first() {
            match control::send_now(&self.socket, message) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Whoever is gone wants nothing.
                Ok(()) | Err(_) => drop(self.unsent.remove(0)),
            }
        }
    }
}

/// Adds a message to those that wait; it takes the place of what it makes idle.
fn enqueue(unsent: &mut Vec<ToSentry>, message: ToSentry) {
    use ToSentry::{End, Resume, Signal, Suspend, WindowSize};
    let idle = |waits: &ToSentry| match (waits, &message) {
        (Signal(one), Signal(other)) => one == other,
        (WindowSize(_), WindowSize(_)) | (End(_), End(_)) => true,
        // A suspension that is taken back must still be answered.
        (Resume { .. }, Resume { .. }) | (Suspend, Suspend) => true,
        _ => false,
    };
    unsent.retain(|waits| !idle(waits));
    unsent.push(message);
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use proptest::prelude::*;
    use sentry::boot::control::{BootFailure, Cause, Ending, ExitStatus, Usage};
    use sentry::boot::spec::WindowSize;

    use super::*;

    fn pair() -> (Conversation, OwnedFd) {
        let kind = SockType::SeqPacket;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        (Conversation::new(ours), theirs)
    }

    fn send(socket: &OwnedFd, bytes: &[u8]) -> bool {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: `bytes` is valid for reads of its length.
        let sent =
            unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
        sent == bytes.len() as isize
    }

    fn message(which: u8) -> FromSentry {
        let status = ExitStatus::Code(0);
        match which % 4 {
            0 => FromSentry::Started { platform: "x".into() },
            1 => FromSentry::Failed(BootFailure { code: 125, message: String::new() }),
            2 => FromSentry::Suspended,
            _ => {
                let usage = Usage::default();
                FromSentry::Exited(Ending { status, cause: Cause::Exit, usage })
            }
        }
    }

    fn hear(which: &[u8]) -> Vec<bool> {
        let (mut ours, theirs) = pair();
        let say = |&one| {
            control::send(&theirs, &message(one)).unwrap();
            ours.hear().is_ok()
        };
        which.iter().map(say).collect()
    }

    #[test]
    fn what_is_said_out_of_turn_is_a_violation() {
        assert_eq!(hear(&[0, 3]), [true, true]);
        assert_eq!(hear(&[1]), [true]);
        assert_eq!(hear(&[0, 0]), [true, false]);
        assert_eq!(hear(&[0, 1]), [true, false]);
        assert_eq!(hear(&[3]), [false]);
        assert_eq!(hear(&[2]), [false]);
        assert_eq!(hear(&[0, 2]), [true, false]);
    }

    #[test]
    fn a_suspension_is_answered_once() {
        let (mut ours, theirs) = pair();
        ours.tell(ToSentry::Suspend);
        control::send(&theirs, &FromSentry::Suspended).unwrap();
        control::send(&theirs, &FromSentry::Suspended).unwrap();
        assert_eq!(ours.hear().unwrap(), Some(FromSentry::Suspended));
        assert!(ours.hear().is_err());
    }

    /// Somebody sends the launcher a signal just as the program ends.
    #[test]
    fn last_words_are_heard_whatever_the_sentry_left_unread() {
        let (mut ours, theirs) = pair();
        for which in [0, 3] {
            control::send(&theirs, &message(which)).unwrap();
        }
        ours.tell(ToSentry::Signal(15));
        drop(theirs);
        assert_eq!(ours.hear().unwrap(), Some(message(0)));
        assert_eq!(ours.hear().unwrap(), Some(message(3)));
        assert_eq!(ours.hear().unwrap(), None);
    }

    #[test]
    fn the_end_and_an_empty_packet_are_told_apart() {
        let (mut ours, theirs) = pair();
        assert!(send(&theirs, b""));
        assert!(ours.hear().is_err());
        drop(theirs);
        assert_eq!(ours.hear().unwrap(), None);
    }

    /// Descriptors that come along are closed by the host at once.
    #[test]
    fn descriptors_are_not_taken() {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        use std::io::Read;

        let (mut ours, theirs) = pair();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let packet = serde_json::to_vec(&message(0)).unwrap();
        let fds = [writer.as_raw_fd(); 200];
        let rights = [ControlMessage::ScmRights(&fds)];
        let parts = [io::IoSlice::new(&packet)];
        sendmsg::<()>(theirs.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).unwrap();
        drop(writer);
        assert_eq!(ours.hear().unwrap(), Some(message(0)));
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "nobody has the other end any more");
    }

    /// A Sentry that reads nothing: the launcher does not wait, keeps no more than there is to say,
    /// and sends the last of each when there is room.
    #[test]
    fn nobody_listening_holds_nothing_up() {
        let (mut ours, theirs) = pair();
        let size = |rows| WindowSize { rows, cols: 80, xpixel: 0, ypixel: 0 };
        for round in 0..5000u16 {
            ours.tell(ToSentry::Signal(i32::from(round % 64) + 1));
            ours.tell(ToSentry::WindowSize(size(round)));
            ours.tell(ToSentry::Suspend);
            ours.tell(ToSentry::Resume { foreground: round % 2 == 0 });
        }
        ours.tell(ToSentry::End(Cause::Wall));
        assert!(ours.fd().1 && ours.unsent.len() <= 64 + 4, "{}", ours.unsent.len());
        let mut last = Vec::new();
        while ours.fd().1 {
            last.push(control::receive::<ToSentry>(&theirs).unwrap().unwrap());
            ours.flush();
        }
        drop(ours);
        while let Some(message) = control::receive::<ToSentry>(&theirs).unwrap() {
            last.push(message);
        }
        assert!(last.contains(&ToSentry::WindowSize(size(4999))));
        assert_eq!(last.last(), Some(&ToSentry::End(Cause::Wall)));
        // It ends as it was left: running.
        let at = |what: &ToSentry| last.iter().rposition(|one| one == what);
        assert!(at(&ToSentry::Suspend) < at(&ToSentry::Resume { foreground: false }));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Whatever bytes come in whatever packets: a message, a violation or the end; never a wait.
        #[test]
        fn any_packets_are_borne(
            packets in proptest::collection::vec(packet(), 0..12),
            suspends in 0u8..3,
        ) {
            let (mut ours, theirs) = pair();
            for _ in 0..suspends {
                ours.tell(ToSentry::Suspend);
            }
            let sent = packets.iter().filter(|packet| send(&theirs, packet)).count();
            drop(theirs);
            for _ in 0..sent {
                drop(ours.hear());
            }
            prop_assert!(matches!(ours.hear(), Ok(None)));
        }
    }

    /// Real messages, cut and changed ones, deep and huge ones, and noise.
    fn packet() -> impl Strategy<Value = Vec<u8>> {
        let real = any::<u8>().prop_map(|which| serde_json::to_vec(&message(which)).unwrap());
        let changed = (any::<u8>(), any::<prop::sample::Index>(), any::<u8>()).prop_map(
            |(which, at, byte)| {
                let mut bytes = serde_json::to_vec(&message(which)).unwrap();
                let at = at.index(bytes.len());
                bytes[at] = byte;
                bytes
            },
        );
        let cut = (any::<u8>(), any::<prop::sample::Index>()).prop_map(|(which, at)| {
            let mut bytes = serde_json::to_vec(&message(which)).unwrap();
            bytes.truncate(at.index(bytes.len()));
            bytes
        });
        let huge = (0..40_000usize).prop_map(|n| vec![b'['; n]);
        let noise = proptest::collection::vec(any::<u8>(), 0..64);
        let large = Just(br#"{"exited":{"status":{"code":1e400},"cause":"exit"}}"#.to_vec());
        prop_oneof![4 => real, 3 => changed, 2 => cut, 1 => huge, 2 => noise, 1 => large]
    }
}
