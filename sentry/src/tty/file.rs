//! Open terminals: the master and the slave side as files, and their ioctls (ioctl_tty(2)).

use std::any::Any;
use std::sync::Arc;

use abi::Errno;
use zerocopy::IntoBytes;

use super::devpts::Devpts;
use super::pty::Tty;
use super::termios::{Termios, Termios2, Winsize};
use crate::kernel::current::current_task;
use crate::kernel::session::ControllingTty;
use crate::kernel::{Caps, Current, Events, WaitQueue};
use crate::vfs::{FileDescription, FileOps, IoDst, IoSrc, OpenFlags};

/// Bytes that one call moves at most; the line discipline's buffers are smaller.
const CHUNK: usize = 4096;

/// The master side: `/dev/ptmx`, opened.
pub struct Master {
    /// The pair.
    pub tty: Arc<Tty>,
    /// Where the slave has its name.
    pub devpts: Arc<Devpts>,
}

/// The slave side: `/dev/pts/N`, opened.
pub struct Slave {
    tty: Arc<Tty>,
}

impl Slave {
    /// Opens the slave side. `EIO` if it is locked or hung up, `EBUSY` if exclusive.
    pub fn open(tty: &Arc<Tty>, privileged: bool) -> Result<Slave, Errno> {
        tty.open_slave(privileged)?;
        Ok(Slave { tty: tty.clone() })
    }
}

impl Drop for Slave {
    fn drop(&mut self) {
        self.tty.close_slave();
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.devpts.remove(self.tty.index);
        self.tty.close_master();
    }
}

/// Writes all of `src`; an error leaves what was not taken there, for `Task::block_write` to go on
/// with.
fn write_in_chunks(
    src: &mut IoSrc<'_>,
    mut write: impl FnMut(&[u8]) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let mut buf = [0; CHUNK];
    let mut done = 0;
    while src.remaining() > 0 {
        let want = src.remaining().min(CHUNK);
        let got = match src.read(&mut buf[..want]) {
            Ok(got) => got,
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        };
        let taken = write(&buf[..got]).inspect_err(|_| src.unread(got))?;
        done += taken;
        if taken < got {
            src.unread(got - taken);
            return Err(Errno::EAGAIN);
        }
    }
    Ok(done)
}

impl FileOps for Master {
    fn read(&self, dst: &mut IoDst<'_>, _: u64) -> Result<usize, Errno> {
        dst.write(&self.tty.master_read(dst.remaining().min(CHUNK))?)
    }

    fn write(&self, src: &mut IoSrc<'_>, _: u64) -> Result<usize, Errno> {
        write_in_chunks(src, |bytes| self.tty.master_write(bytes))
    }

    fn seekable(&self) -> bool {
        false
    }

    fn poll(&self) -> Events {
        self.tty.master_poll()
    }

    fn wait_queue(&self) -> Option<WaitQueue> {
        Some(self.tty.master_queue().clone())
    }

    fn ioctl(&self, cur: &mut Current, cmd: u32, arg: u64) -> Result<i64, Errno> {
        let tty = &self.tty;
        match u64::from(cmd) {
            libc::TIOCGPTN => cur.mm.write_obj(arg, &tty.index)?,
            libc::TIOCSPTLCK => tty.set_locked(cur.mm.read_obj::<i32>(arg)? != 0),
            TIOCGPTLCK => cur.mm.write_obj(arg, &i32::from(tty.locked()))?,
            libc::TIOCPKT => tty.set_packet_mode(cur.mm.read_obj::<i32>(arg)? != 0),
            TIOCGPKT => cur.mm.write_obj(arg, &i32::from(tty.packet_mode()))?,
            TIOCSIG => {
                let signo = arg as i32;
                if !(1..=64).contains(&signo) {
                    return Err(Errno::EINVAL);
                }
                tty.signal_foreground(signo);
            }
            TIOCGPTPEER => return self.open_peer(cur, arg as u32).map(i64::from),
            libc::FIONREAD => cur.mm.write_obj(arg, &(tty.queued().1 as i32))?,
            libc::TIOCGPGRP => {
                cur.mm.write_obj(arg, &tty.foreground().unwrap_or(0))?;
            }
            libc::TIOCGSID => {
                cur.mm.write_obj(arg, &tty.session().ok_or(Errno::ENOTTY)?)?;
            }
            libc::TIOCSCTTY | libc::TIOCNOTTY | libc::TIOCSPGRP => return Err(Errno::ENOTTY),
            _ => return common_ioctl(tty, cur, cmd, arg),
        }
        Ok(0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Master {
    /// TIOCGPTPEER: opens the slave without walking a path.
    fn open_peer(&self, cur: &Current, flags: u32) -> Result<i32, Errno> {
        let flags = OpenFlags::from_bits_truncate(flags);
        let slave = Slave::open(&self.tty, cur.cred().capable(Caps::SYS_ADMIN))?;
        if !flags.contains(OpenFlags::NOCTTY) {
            self.tty.adopt(cur);
        }
        let path = self.devpts.path_of(self.tty.index).ok_or(Errno::EIO)?;
        let file = FileDescription::new(Box::new(slave), path, flags, cur.cred())?;
        cur.files.install(file, flags.contains(OpenFlags::CLOEXEC), 0, cur.group.nofile())
    }
}

impl FileOps for Slave {
    fn read(&self, dst: &mut IoDst<'_>, _: u64) -> Result<usize, Errno> {
        if let Some(task) = current_task() {
            self.tty.check_background(&task, libc::SIGTTIN)?;
        }
        let max = dst.remaining().min(CHUNK);
        let bytes = self.tty.slave_read(max)?;
        if bytes.is_empty() { Ok(0) } else { dst.write(&bytes) }
    }

    fn write(&self, src: &mut IoSrc<'_>, _: u64) -> Result<usize, Errno> {
        if let Some(task) = current_task()
            && self.tty.termios().local(libc::TOSTOP)
        {
            self.tty.check_background(&task, libc::SIGTTOU)?;
        }
        write_in_chunks(src, |bytes| self.tty.slave_write(bytes))
    }

    fn seekable(&self) -> bool {
        false
    }

    fn poll(&self) -> Events {
        self.tty.slave_poll()
    }

    fn wait_queue(&self) -> Option<WaitQueue> {
        Some(self.tty.slave_queue().clone())
    }

    fn ioctl(&self, cur: &mut Current, cmd: u32, arg: u64) -> Result<i64, Errno> {
        let tty = &self.tty;
        if tty.hung_up() {
            // `hung_up_tty_ioctl`
            return Err(if u64::from(cmd) == libc::TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO });
        }
        match u64::from(cmd) {
            libc::TIOCSCTTY => tty.set_controlling(cur, arg == 1)?,
            libc::TIOCNOTTY => tty.give_up(cur)?,
            libc::TIOCGPGRP if !tty.controls(cur) => return Err(Errno::ENOTTY),
            libc::TIOCGPGRP => cur.mm.write_obj(arg, &tty.foreground().unwrap_or(0))?,
            libc::TIOCSPGRP => {
                let pgid = cur.mm.read_obj::<i32>(arg)?;
                tty.set_foreground(cur, pgid)?;
            }
            libc::TIOCGSID if !tty.controls(cur) => return Err(Errno::ENOTTY),
            libc::TIOCGSID => cur.mm.write_obj(arg, &tty.session().ok_or(Errno::ENOTTY)?)?,
            libc::FIONREAD => cur.mm.write_obj(arg, &(tty.queued().0 as i32))?,
            // Typing into a terminal from a program is how sandboxes are escaped; Linux too says EIO
            // unless dev.tty.legacy_tiocsti is set.
            libc::TIOCSTI => return Err(Errno::EIO),
            _ => return common_ioctl(tty, cur, cmd, arg),
        }
        Ok(0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

const TIOCGPTLCK: u64 = 0x8004_5439;
const TIOCGPKT: u64 = 0x8004_5438;
const TIOCSIG: u64 = 0x4004_5436;
const TIOCGPTPEER: u64 = 0x5441;
const TIOCGEXCL: u64 = 0x8004_5440;

/// What both sides answer alike; settings are those of the pair.
fn common_ioctl(tty: &Arc<Tty>, cur: &mut Current, cmd: u32, arg: u64) -> Result<i64, Errno> {
    let mm = cur.mm.clone();
    let change = |tty: &Arc<Tty>| tty.check_background(cur, libc::SIGTTOU);
    match u64::from(cmd) {
        libc::TCGETS => mm.write_obj(arg, &tty.termios())?,
        libc::TCGETS2 => {
            let base = tty.termios();
            mm.write_obj(arg, &Termios2 { base, ispeed: 38400, ospeed: 38400 })?;
        }
        libc::TCSETS | libc::TCSETSW | libc::TCSETSF => {
            change(tty)?;
            let new = mm.read_obj::<Termios>(arg)?;
            tty.set_termios(new, u64::from(cmd) == libc::TCSETSF);
        }
        libc::TCSETS2 | libc::TCSETSW2 | libc::TCSETSF2 => {
            change(tty)?;
            let new = mm.read_obj::<Termios2>(arg)?;
            tty.set_termios(new.base, u64::from(cmd) == libc::TCSETSF2);
        }
        // Output is handed over at once: nothing to drain, and no line to break.
        libc::TCSBRK | libc::TCSBRKP | libc::TIOCSBRK | libc::TIOCCBRK => change(tty)?,
        libc::TCXONC => {
            change(tty)?;
            match arg as i32 {
                libc::TCOOFF => tty.set_stopped(true),
                libc::TCOON => tty.set_stopped(false),
                libc::TCIOFF | libc::TCION => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        libc::TCFLSH => {
            change(tty)?;
            match arg as i32 {
                libc::TCIFLUSH => tty.flush(true, false),
                libc::TCOFLUSH => tty.flush(false, true),
                libc::TCIOFLUSH => tty.flush(true, true),
                _ => return Err(Errno::EINVAL),
            }
        }
        libc::TIOCOUTQ => mm.write_obj(arg, &(tty.queued().1 as i32))?,
        libc::TIOCGWINSZ => {
            if mm.copy_out(arg, tty.winsize().as_bytes()) < size_of::<Winsize>() {
                return Err(Errno::EFAULT);
            }
        }
        libc::TIOCSWINSZ => tty.set_winsize(mm.read_obj::<Winsize>(arg)?),
        libc::TIOCEXCL => tty.set_exclusive(true),
        libc::TIOCNXCL => tty.set_exclusive(false),
        TIOCGEXCL => mm.write_obj(arg, &i32::from(tty.exclusive()))?,
        libc::TIOCGETD => mm.write_obj(arg, &0i32)?,
        libc::TIOCSETD => match mm.read_obj::<i32>(arg)? {
            0 => {}
            _ => return Err(Errno::EINVAL),
        },
        libc::FIONBIO => return Err(Errno::ENOTTY),
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}
