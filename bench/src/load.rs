//! What else the machine does while rows are measured.

use crate::processes::tied;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};

/// A load to measure under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Load {
    /// Nothing else.
    None,
    /// A busy loop pinned on each CPU.
    Busy,
    /// Everything on one CPU.
    OneCpu,
    /// Each of the others in turn.
    All,
}

impl Load {
    /// The loads that a list of them stands for.
    pub(crate) fn expand(list: &[Load]) -> Vec<Load> {
        let each = [Load::None, Load::Busy, Load::OneCpu];
        each.into_iter().filter(|l| list.contains(l) || list.contains(&Load::All)).collect()
    }

    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Load::None => "none",
            Load::Busy => "busy",
            Load::OneCpu => "one-cpu",
            Load::All => "all",
        }
    }

    /// Puts the machine under it until the result is dropped, or this program ends however it may.
    pub(crate) fn hold(self, guest: &Path) -> Result<Held> {
        let before = affinity()?;
        let mut held = Held { burners: Vec::new(), before };
        match self {
            Load::None | Load::All => {}
            Load::Busy => {
                for cpu in cpus(&before) {
                    let mut command = Command::new(guest);
                    // SAFETY: sched_setaffinity is async-signal-safe; nothing is allocated.
                    unsafe { command.pre_exec(move || pin(&only(cpu))) };
                    held.burners.push(tied(command.arg("burn")).spawn().context("a busy loop")?);
                }
            }
            Load::OneCpu => match cpus(&before).last() {
                Some(&cpu) => pin(&only(cpu)).context("one CPU")?,
                None => bail!("no CPU to run on"),
            },
        }
        Ok(held)
    }
}

/// A load that lasts until this is dropped.
pub(crate) struct Held {
    burners: Vec<Child>,
    before: libc::cpu_set_t,
}

impl Drop for Held {
    fn drop(&mut self) {
        for b in &mut self.burners {
            let _ = b.kill();
            let _ = b.wait();
        }
        let _ = pin(&self.before);
    }
}

/// The CPUs this thread may run on.
fn affinity() -> Result<libc::cpu_set_t> {
    // SAFETY: all-zero is a valid set; the size is that of what is written to.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of_val(&set), &mut set) != 0 {
            bail!("sched_getaffinity: {}", std::io::Error::last_os_error());
        }
        Ok(set)
    }
}

fn cpus(set: &libc::cpu_set_t) -> Vec<usize> {
    // SAFETY: each number is below the set's size.
    (0..libc::CPU_SETSIZE as usize).filter(|c| unsafe { libc::CPU_ISSET(*c, set) }).collect()
}

fn only(cpu: usize) -> libc::cpu_set_t {
    // SAFETY: all-zero is a valid set; the CPU is one of a set's.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        set
    }
}

/// Restricts this thread, and what it starts from now on.
fn pin(set: &libc::cpu_set_t) -> std::io::Result<()> {
    // SAFETY: the size is that of the set.
    match unsafe { libc::sched_setaffinity(0, size_of_val(set), set) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cpu_is_held_and_given_back() {
        let before = cpus(&affinity().unwrap());
        let held = Load::OneCpu.hold(Path::new("/bin/true")).unwrap();
        assert_eq!(cpus(&affinity().unwrap()).len(), 1);
        drop(held);
        assert_eq!(cpus(&affinity().unwrap()), before);
    }

    #[test]
    fn all_stands_for_each_once() {
        assert_eq!(Load::expand(&[Load::Busy]), [Load::Busy]);
        assert_eq!(Load::expand(&[Load::All, Load::Busy]), [Load::None, Load::Busy, Load::OneCpu]);
    }
}
