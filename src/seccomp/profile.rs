//! Profiles as they are written, and resolved for a guest.

use std::collections::BTreeMap;

use sentry::kernel::Caps;
use sentry::kernel::seccomp::Action;
use serde::Deserialize;

use super::names;

const EPERM: u16 = libc::EPERM as u16;
pub(super) const ENOSYS: u16 = libc::ENOSYS as u16;
/// Largest value that an action's 16 bits hold and Linux takes for an error.
const MAX_ERRNO: u32 = 4095;
/// Argument registers.
const ARGUMENTS: u32 = 6;

/// What conditions in docker's profiles look at.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// The capabilities that the first process has.
    pub caps: Caps,
}

impl Guest {
    /// A guest that starts with this user id.
    pub fn with_uid(uid: u32) -> Guest {
        Guest { caps: if uid == 0 { Caps::all() } else { Caps::empty() } }
    }
}

/// A resolved profile.
#[derive(Clone, Debug)]
pub struct Profile {
    /// What becomes of calls that nothing is said about.
    pub(super) default: Verdict,
    /// Whether calls that are newer than the profile are `ENOSYS`.
    pub(super) newest: Option<u32>,
    /// Whether calls of the x32 interface are let through, to where nobody has them.
    pub(super) x32: bool,
    /// `SECCOMP_FILTER_FLAG_LOG`
    pub(super) log: bool,
    /// What is said about each call.
    pub(super) calls: BTreeMap<u32, Call>,
    /// Names that are no system call's.
    pub(super) unknown: Vec<String>,
}

/// What a filter returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) action: Action,
    pub(super) data: u16,
}

impl Verdict {
    pub(super) fn value(self) -> u32 {
        self.action.value() | u32::from(self.data)
    }
}

/// What is said about a call.
#[derive(Clone, Debug, Default)]
pub(super) struct Call {
    /// Whatever its arguments are; then the rest does not count.
    pub(super) always: Option<Verdict>,
    /// The first rule all of whose conditions hold.
    pub(super) rules: Vec<(Vec<Condition>, Verdict)>,
}

/// A condition on an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) index: u32,
    pub(super) op: Op,
    pub(super) value: u64,
    pub(super) value_two: u64,
}

/// `SCMP_CMP_*`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Op {
    #[serde(rename = "SCMP_CMP_NE")]
    Ne,
    #[serde(rename = "SCMP_CMP_LT")]
    Lt,
    #[serde(rename = "SCMP_CMP_LE")]
    Le,
    #[serde(rename = "SCMP_CMP_EQ")]
    Eq,
    #[serde(rename = "SCMP_CMP_GE")]
    Ge,
    #[serde(rename = "SCMP_CMP_GT")]
    Gt,
    /// The argument, of which only the bits of `value` count, is `value_two`.
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEq,
}

/// A list that may be `null`.
type List<T> = Option<Vec<T>>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    default_action: Name,
    default_errno_ret: Option<u32>,
    architectures: List<String>,
    arch_map: List<ArchMap>,
    flags: List<String>,
    syscalls: List<Rule>,
}

/// `SCMP_ACT_*`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Name {
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
}

impl Name {
    /// The action with its number; `field` is where that came from.
    fn verdict(self, errno: Option<u32>, field: &str) -> Result<Verdict, String> {
        let action = match self {
            Name::KillThread => Action::KillThread,
            Name::KillProcess => Action::KillProcess,
            Name::Trap => Action::Trap,
            Name::Errno => Action::Errno,
            Name::Notify => Action::UserNotif,
            Name::Trace => Action::Trace,
            Name::Log => Action::Log,
            Name::Allow => Action::Allow,
        };
        let takes = matches!(self, Name::Errno | Name::Trace);
        let data = match errno {
            None if takes => EPERM,
            None => 0,
            Some(_) if !takes => {
                return Err(format!("{field}: only SCMP_ACT_ERRNO and SCMP_ACT_TRACE take one"));
            }
            Some(errno) if errno > MAX_ERRNO => {
                return Err(format!("{field}: {errno} is more than {MAX_ERRNO}"));
            }
            Some(errno) => errno as u16,
        };
        Ok(Verdict { action, data })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    sub_architectures: List<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    /// Docker's older files have one name each.
    name: Option<String>,
    names: List<String>,
    action: Name,
    errno_ret: Option<u32>,
    args: List<Argument>,
    includes: Option<When>,
    excludes: Option<When>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    value_two: Option<u64>,
    op: Op,
}

/// Docker's conditions on rules.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct When {
    caps: List<String>,
    arches: List<String>,
    min_kernel: Option<String>,
}

impl When {
    /// For `includes`: every condition that is there holds.
    fn all(&self, guest: &Guest, field: &str) -> Result<bool, String> {
        let caps = self.has_caps(guest);
        let arches = self.arches.as_deref().unwrap_or_default();
        Ok(caps.is_none_or(|caps| caps.iter().all(|has| *has))
            && (arches.is_empty() || arches.iter().any(|arch| arch == "amd64"))
            && self.is_recent(field)?.unwrap_or(true))
    }

    /// For `excludes`: one of the conditions holds.
    fn any(&self, guest: &Guest, field: &str) -> Result<bool, String> {
        let caps = self.has_caps(guest);
        let arches = self.arches.as_deref().unwrap_or_default();
        Ok(caps.is_some_and(|caps| caps.contains(&true))
            || arches.iter().any(|arch| arch == "amd64")
            || self.is_recent(field)?.unwrap_or(false))
    }

    /// For each capability, whether the guest has it.
    fn has_caps(&self, guest: &Guest) -> Option<Vec<bool>> {
        let caps = self.caps.as_ref()?;
        let has = |name: &String| {
            let name = name.strip_prefix("CAP_").unwrap_or(name);
            Caps::from_name(name).is_some_and(|cap| guest.caps.contains(cap))
        };
        Some(caps.iter().map(has).collect())
    }

    /// Whether the guest's kernel is as new as that.
    fn is_recent(&self, field: &str) -> Result<Option<bool>, String> {
        let Some(text) = &self.min_kernel else { return Ok(None) };
        let version = |text: &str| {
            let mut parts = text.split(['.', '-']).map(str::parse::<u32>);
            Some((parts.next()?.ok()?, parts.next()?.ok()?))
        };
        let wanted = version(text)
            .ok_or_else(|| format!("{field}.minKernel: {text:?} is not like \"4.8\""))?;
        Ok(Some(version(sentry::kernel::version::RELEASE).is_some_and(|own| own >= wanted)))
    }
}

/// Why a field must not say `SCMP_ACT_NOTIFY`: docs/decisions/0008.
fn no_agents(field: &str) -> String {
    format!(
        "{field}: SCMP_ACT_NOTIFY is not possible: a program outside (listenerPath) would hold a \
         listener of the host's kernel, and could let that run the guest's calls; use \
         SCMP_ACT_ERRNO or SCMP_ACT_LOG"
    )
}

impl Profile {
    /// Reads a profile, and resolves what depends on the guest. The error is one line.
    pub fn parse(json: &[u8], guest: &Guest) -> Result<Profile, String> {
        let document: Document = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        if document.default_action == Name::Notify {
            return Err(no_agents("defaultAction"));
        }
        let default =
            document.default_action.verdict(document.default_errno_ret, "defaultErrnoRet")?;
        let mut profile = Profile {
            default,
            newest: None,
            x32: architectures(&document)?,
            log: flags(document.flags.as_deref().unwrap_or_default())?,
            calls: BTreeMap::new(),
            unknown: Vec::new(),
        };
        for (at, rule) in document.syscalls.iter().flatten().enumerate() {
            profile.add(rule, guest, &format!("syscalls[{at}]"))?;
        }
        profile.unknown.sort_unstable();
        profile.unknown.dedup();
        // Programs try new calls and go back to old ones on ENOSYS, but not on EPERM. For a profile
        // that allows what it does not know there is nothing to say.
        let lenient = matches!(default.action, Action::Allow | Action::Log | Action::Trace);
        if lenient || default == (Verdict { action: Action::Errno, data: ENOSYS }) {
            profile.newest = None;
        }
        Ok(profile)
    }

    fn add(&mut self, rule: &Rule, guest: &Guest, field: &str) -> Result<(), String> {
        let names: Vec<&String> = rule.name.iter().chain(rule.names.iter().flatten()).collect();
        if names.is_empty() {
            return Err(format!("{field}.names: no names"));
        }
        let args = rule.args.as_deref().unwrap_or_default();
        let conditions: Vec<Condition> = args
            .iter()
            .enumerate()
            .map(|(at, arg)| arg.condition(&format!("{field}.args[{at}]")))
            .collect::<Result<_, _>>()?;
        let verdict = rule.action.verdict(rule.errno_ret, &format!("{field}.errnoRet"))?;
        let includes = match &rule.includes {
            Some(when) => when.all(guest, &format!("{field}.includes"))?,
            None => true,
        };
        let excludes = match &rule.excludes {
            Some(when) => when.any(guest, &format!("{field}.excludes"))?,
            None => false,
        };
        if !includes || excludes {
            return Ok(());
        }
        if rule.action == Name::Notify {
            return Err(no_agents(&format!("{field}.action")));
        }
        for name in names {
            let Some(nr) = names::number(name) else {
                if !names::is_foreign(name) {
                    // It goes onto a terminal.
                    self.unknown.push(name.escape_debug().take(64).collect());
                }
                continue;
            };
            self.newest = self.newest.max(Some(nr));
            // As if it were not there.
            if verdict == self.default {
                continue;
            }
            let call = self.calls.entry(nr).or_default();
            if conditions.is_empty() {
                call.always.get_or_insert(verdict);
            } else if repeats(&conditions) {
                // Several about one argument are alternatives, by tradition.
                call.rules.extend(conditions.iter().map(|c| (vec![*c], verdict)));
            } else {
                call.rules.push((conditions.clone(), verdict));
            }
        }
        Ok(())
    }
}

/// Whether two conditions are about the same argument.
fn repeats(conditions: &[Condition]) -> bool {
    let same = |at: usize, a: &Condition| {
        conditions.iter().skip(at.saturating_add(1)).any(|b| a.index == b.index)
    };
    conditions.iter().enumerate().any(|(at, condition)| same(at, condition))
}

impl Argument {
    fn condition(&self, field: &str) -> Result<Condition, String> {
        if self.index >= ARGUMENTS {
            return Err(format!("{field}.index: {} is not 0 to 5", self.index));
        }
        let value_two = self.value_two.unwrap_or(0);
        Ok(Condition { index: self.index, op: self.op, value: self.value, value_two })
    }
}

/// Checks the architectures, of which a guest has only the first; whether x32 is among them.
fn architectures(document: &Document) -> Result<bool, String> {
    const KNOWN: [&str; 22] = [
        "X86_64",
        "X86",
        "X32",
        "ARM",
        "AARCH64",
        "MIPS",
        "MIPS64",
        "MIPS64N32",
        "MIPSEL",
        "MIPSEL64",
        "MIPSEL64N32",
        "PPC",
        "PPC64",
        "PPC64LE",
        "S390",
        "S390X",
        "PARISC",
        "PARISC64",
        "RISCV64",
        "LOONGARCH64",
        "M68K",
        "SH",
    ];
    let maps = document.arch_map.iter().flatten();
    let named = document.architectures.iter().flatten().map(|name| (name, true));
    let mapped = maps.flat_map(|map| {
        let own = map.architecture == "SCMP_ARCH_X86_64";
        let below = map.sub_architectures.iter().flatten();
        below.chain([&map.architecture]).map(move |name| (name, own))
    });
    let mut x32 = false;
    for (name, counts) in named.chain(mapped) {
        let short = name.strip_prefix("SCMP_ARCH_").filter(|short| KNOWN.contains(short));
        let short = short.ok_or_else(|| format!("architectures: {name:?} is unknown"))?;
        x32 |= counts && short == "X32";
    }
    Ok(x32)
}

/// Whether what filters do is logged. The other flags change nothing here: there is one thread, and
/// no listener; the host's speculation is the host's own.
fn flags(flags: &[String]) -> Result<bool, String> {
    let mut log = false;
    for flag in flags {
        match flag.strip_prefix("SECCOMP_FILTER_FLAG_") {
            Some("LOG") => log = true,
            Some("TSYNC" | "SPEC_ALLOW" | "WAIT_KILLABLE_RECV") => {}
            _ => return Err(format!("flags: {flag:?} is unknown")),
        }
    }
    Ok(log)
}
