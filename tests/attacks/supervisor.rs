//! Runs attacks one after another, each in processes of its own, and looks after each whether
//! everything else is as it was.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;
use std::sync::atomic::Ordering;

use super::Target;
use super::catch::Catcher;
use super::probe;
use super::share::{self, PATIENCE, Share, doze, now};
use super::victim::Victim;

/// The user of attackers that have no privileges inside.
pub const USER: u32 = 1001;
/// How long a sweep tries every item, in milliseconds. Then it tries a spread of them.
const SWEEP: u64 = 10_000;

/// How an attacking process may end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// By itself, with success: the attack looked at every outcome.
    Well,
    /// By itself or by a signal, in time.
    Somehow,
    /// The same, or it must be killed: it harms itself.
    OrHangs,
    /// It spins until it is killed.
    Killed,
}

/// What a body gets.
pub struct Attacker {
    pub share: &'static Share,
    pub catcher: Catcher,
}

/// One attack.
pub struct Attack {
    pub name: &'static str,
    pub ends: Ends,
    /// How many items it has, once the stub's pages are known.
    pub items: fn() -> u64,
    /// Whether each item needs a process of its own.
    pub fresh: bool,
    /// How long an item, in milliseconds; longer if it is no attack on time and has to come to an end.
    pub limit: u64,
    pub body: fn(&Attacker, u64),
}

impl Attack {
    /// An attack in one process, which ends as said.
    pub const fn once(name: &'static str, ends: Ends, body: fn(&Attacker, u64)) -> Attack {
        Attack { name, ends, items: || 1, fresh: true, limit: PATIENCE, body }
    }
}

struct Supervisor {
    share: &'static Share,
    target: Target,
    /// Who the attackers are.
    user: u32,
    victim: Victim,
    /// Something of our own that must not change.
    keepsake: Vec<u64>,
}

/// Runs a class by attackers of this user; returns why it failed.
pub(super) fn run(
    class: &str,
    target: Target,
    user: u32,
    attacks: &[Attack],
    only: Option<&str>,
) -> Result<(), String> {
    let share = Share::new();
    // As a service that is not to fall for the sins of others: what attackers hold is not always
    // memory of theirs that counts against them.
    set_oom_score_adj(-1000);
    let victim = Victim::start(share);
    share.cells[0].store(victim.pid as u64, Ordering::Relaxed);
    Catcher::install();
    if target == Target::Stub {
        let pages = probe::find_pages(true);
        println!("{class}: stub pages {:x?}", pages.iter().take(12).collect::<Vec<_>>());
        let writable = probe::writable_pages().len();
        println!("{class}: {} stub pages, {writable} of them writable", pages.len());
    }
    let keepsake = (0..4096).map(|i| i * i).collect();
    let supervisor = Supervisor { share, target, user, victim, keepsake };
    for attack in attacks.iter().filter(|a| only.is_none_or(|name| name == a.name)) {
        let start = now();
        let summary = supervisor.attack(attack).map_err(|e| format!("{}: {e}", attack.name))?;
        supervisor.aftermath().map_err(|e| format!("after {}: {e}", attack.name))?;
        println!("{class}: {}: {summary} ({} ms)", attack.name, now() - start);
    }
    // SAFETY: the victim is our child.
    unsafe { libc::kill(supervisor.victim.pid, libc::SIGKILL) };
    let status = wait(supervisor.victim.pid, PATIENCE).ok_or("the victim cannot be killed")?;
    if !libc::WIFSIGNALED(status) {
        return Err("the victim had ended".into());
    }
    Ok(())
}

/// Says how much the caller and its children are worth to the out-of-memory killer; -1000 spares them.
/// Only root may say less than before, which natively nobody needs.
fn set_oom_score_adj(value: i32) {
    drop(std::fs::write("/proc/self/oom_score_adj", value.to_string()));
}

/// Waits for a child so many milliseconds.
fn wait(pid: i32, limit: u64) -> Option<i32> {
    let (start, mut status) = (now(), 0);
    loop {
        // SAFETY: writes the status.
        match unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } {
            0 if now() - start > limit => return None,
            0 => doze(1),
            _ => return Some(status),
        }
    }
}

impl Supervisor {
    fn spawn(&self, attack: &Attack, from: u64, to: u64, start: u64) -> Result<i32, String> {
        self.share.item.store(from, Ordering::Relaxed);
        self.share.ready.store(0, Ordering::Relaxed);
        // SAFETY: the process has one thread.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(format!("cannot fork: {}", std::io::Error::last_os_error()));
        }
        if pid == 0 {
            // SAFETY: a plain call.
            unsafe { libc::setsid() };
            set_oom_score_adj(0);
            share::become_user(self.user);
            let attacker = Attacker { share: self.share, catcher: Catcher::install() };
            if self.target == Target::Stub {
                probe::find_pages(false);
            }
            for item in from..to {
                if !attack.fresh && now() - start > SWEEP && !item.is_multiple_of(37) {
                    continue;
                }
                self.share.item.store(item, Ordering::Relaxed);
                (attack.body)(&attacker, item);
            }
            self.share.item.store(to, Ordering::Relaxed);
            // SAFETY: nothing is to be flushed.
            unsafe { libc::_exit(0) };
        }
        Ok(pid)
    }

    /// Waits for an attacker. `Ok(None)`: it made no progress for too long, and was killed.
    fn watch(&self, attack: &Attack, pid: i32) -> Result<Option<i32>, String> {
        let (mut item, mut since) = (self.share.item.load(Ordering::Relaxed), now());
        loop {
            if let Some(status) = wait(pid, 0) {
                return Ok(Some(status));
            }
            let (at, ready) = (
                self.share.item.load(Ordering::Relaxed),
                self.share.ready.load(Ordering::Relaxed) != 0,
            );
            if at != item {
                (item, since) = (at, now());
            }
            let limit = match attack.ends {
                Ends::OrHangs => attack.limit,
                Ends::Killed if ready => 100,
                _ => attack.limit.max(PATIENCE),
            };
            if now() - since > limit {
                // SAFETY: our child, not waited for yet.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                let Some(status) = wait(pid, PATIENCE) else {
                    return Err(format!("item {item}: SIGKILL does not end it"));
                };
                // It may have ended by itself at the last moment.
                let killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
                return Ok(if killed { None } else { Some(status) });
            }
        }
    }

    fn attack(&self, attack: &Attack) -> Result<String, String> {
        let items = (attack.items)();
        let (mut from, mut ends) = (0, BTreeMap::<String, u32>::new());
        let start = now();
        while from < items {
            let to = if attack.fresh { from + 1 } else { items };
            let pid = self.spawn(attack, from, to, start)?;
            let status = self.watch(attack, pid)?;
            let item = self.share.item.load(Ordering::Relaxed);
            if let Some(what) = self.share.failure() {
                return Err(format!("item {item}: {what}"));
            }
            let end = match status {
                None => "had to be killed".to_owned(),
                Some(s) if libc::WIFSIGNALED(s) => format!("signal {}", libc::WTERMSIG(s)),
                Some(s) => format!("exit {}", libc::WEXITSTATUS(s)),
            };
            let allowed = match attack.ends {
                Ends::Well => status == Some(0),
                Ends::Somehow => status.is_some(),
                Ends::OrHangs => true,
                Ends::Killed => status.is_none() && self.share.ready.load(Ordering::Relaxed) != 0,
            };
            if !allowed {
                return Err(format!("item {item} of {items}: {end}"));
            }
            *ends.entry(end).or_default() += 1;
            from = if attack.fresh { to } else { item.max(from) + 1 };
            if attack.fresh && now() - start > SWEEP {
                from += 36;
            }
        }
        let mut summary = format!("{items} items");
        for (end, times) in ends {
            let _ = write!(summary, ", {end} {times} times");
        }
        Ok(summary)
    }

    /// Nothing may be left of the attackers, and nothing may have happened to the others.
    fn aftermath(&self) -> Result<(), String> {
        // What attackers made ends, too: kill(-1) reaches everything of one's user.
        // SAFETY: the child makes plain calls only.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                // Those of root are killed one by one below: this would reach the victim.
                if self.user != 0 {
                    share::become_user(self.user);
                    libc::kill(-1, libc::SIGKILL);
                }
                libc::_exit(0);
            }
            if child < 0 || wait(child, PATIENCE) != Some(0) {
                return Err("no process could be made to clean up".into());
            }
        }
        let start = now();
        loop {
            // Orphans become our children: we are the sandbox's first process.
            let others = processes().into_iter().filter(|&p| p != 1 && p != self.victim.pid);
            let others: Vec<i32> = others.filter(|&p| parent(p) != Some(self.victim.pid)).collect();
            if others.is_empty() {
                break;
            }
            for &pid in &others {
                if self.user == 0 {
                    // SAFETY: neither ourselves nor the victim.
                    unsafe { libc::kill(pid, libc::SIGKILL) };
                }
                wait(pid, 0);
            }
            if now() - start > PATIENCE {
                return Err(format!("processes are left: {others:?}"));
            }
        }
        if !self.keepsake.iter().enumerate().all(|(i, &k)| k == (i * i) as u64) {
            return Err("the supervisor's memory changed".into());
        }
        self.victim.check(self.share)?;
        if let Some(what) = self.share.failure() {
            return Err(what);
        }
        match Command::new("/bin/true").status() {
            Ok(status) if status.success() => Ok(()),
            other => Err(format!("/bin/true: {other:?}")),
        }
    }
}

pub fn processes() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}
