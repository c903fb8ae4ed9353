//! Other processes as /proc shows them: descent, memory, CPU time.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Makes a command lead a group of its own and die with this program, however that ends.
pub(crate) fn tied(command: &mut Command) -> &mut Command {
    command.process_group(0);
    // SAFETY: prctl is async-signal-safe.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        })
    }
}

/// A command that runs in the background until this is dropped.
pub(crate) struct Background {
    /// Its first process.
    pub(crate) child: Child,
}

impl Background {
    /// Starts it, silent.
    pub(crate) fn start(command: &mut Command) -> io::Result<Background> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Background { child: tied(command).spawn()? })
    }

    /// Its processes.
    pub(crate) fn processes(&self) -> Vec<i32> {
        tree(self.child.id() as i32)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // SAFETY: our own child, not yet waited for; its end ends what it started.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        for _ in 0..20 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for pid in self.processes() {
            // SAFETY: our own child, not yet waited for, and its descendants, looked up just now.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        let _ = self.child.wait();
    }
}

/// The fields of /proc/PID/stat after the command's name: the state is the first.
fn stat(path: &str) -> Vec<String> {
    let text = std::fs::read_to_string(format!("{path}/stat")).unwrap_or_default();
    let rest = text.rsplit(')').next().unwrap_or_default();
    rest.split_whitespace().map(str::to_string).collect()
}

fn ids(dir: &str) -> Vec<i32> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// The process that started one.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    stat(&format!("/proc/{pid}")).get(1)?.parse().ok()
}

/// A process and its descendants.
pub(crate) fn tree(root: i32) -> Vec<i32> {
    let parents: Vec<(i32, i32)> =
        ids("/proc").into_iter().filter_map(|p| Some((p, parent(p)?))).collect();
    let mut all = vec![root];
    let mut i = 0;
    while let Some(&p) = all.get(i) {
        all.extend(parents.iter().filter(|x| x.1 == p).map(|x| x.0));
        i += 1;
    }
    all
}

/// The name of a process's first thread.
pub(crate) fn name(pid: i32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_string()
}

/// Bytes of a process's memory, shared pages in proportion.
pub(crate) fn pss(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// What a process has used since it started, its dead threads included.
#[derive(Clone, Copy, Default)]
pub(crate) struct Used {
    /// Nanoseconds in user mode; ticks are what the host has.
    pub(crate) user: f64,
    /// Nanoseconds in the host's kernel.
    pub(crate) system: f64,
    /// Nanoseconds of either kind of children that it waited for.
    pub(crate) children: f64,
    /// How often living threads were switched away from.
    pub(crate) switches: f64,
}

/// What a process has used so far.
pub(crate) fn used(pid: i32) -> Used {
    let fields = stat(&format!("/proc/{pid}"));
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    // SAFETY: no memory is touched.
    let tick = 1e9 / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    let switches = ids(&format!("/proc/{pid}/task")).into_iter().map(|t| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{t}/status"));
        let text = text.unwrap_or_default();
        let lines = text.lines().filter(|l| l.contains("voluntary_ctxt_switches"));
        lines.filter_map(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok()).sum::<f64>()
    });
    Used {
        user: ticks(11) * tick,
        system: ticks(12) * tick,
        children: (ticks(13) + ticks(14)) * tick,
        switches: switches.sum(),
    }
}

/// Nanoseconds that a process's living threads have run, to the nanosecond.
pub(crate) fn ran(pid: i32) -> u64 {
    let of = |t: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{t}/schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    ids(&format!("/proc/{pid}/task")).into_iter().filter_map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_background_command_is_seen_and_ends() {
        let b = Background::start(Command::new("sleep").arg("30")).unwrap();
        let pid = b.child.id() as i32;
        assert_eq!(b.processes(), [pid]);
        assert_eq!(parent(pid), Some(std::process::id() as i32));
        assert!(pss(pid) > 0 && ran(pid) > 0);
        drop(b);
        assert!(ids("/proc").iter().all(|p| *p != pid));
    }
}
