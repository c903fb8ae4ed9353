//! Everything that can be said about a sandbox on the command line or in a policy file, as text:
//! one list of names for both.
//!
//! The command line goes over the policy file, and that over the profile. Options that may be given
//! more than once add up.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::Args;
use sentry::boot::spec::{ClockChoice, LogFormat, PlatformChoice, StraceFilter};
use serde::Deserialize;

use crate::audit::{self, Audit, OnAlert, SinkChoice};
use crate::capabilities::Capabilities;
use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::limits::{self, Limits};
use crate::profile::Profile;
use crate::sandbox::{Bind, Sandbox, User};
use crate::view::plain;

/// Longest policy file, in bytes.
const MAX_POLICY: u64 = 1 << 20;

/// A value as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text(OsString);

impl From<OsString> for Text {
    fn from(text: OsString) -> Text {
        Text(text)
    }
}

impl<'de> Deserialize<'de> for Text {
    /// A string, a number or a truth value.
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Text, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Value {
            Bool(bool),
            Integer(i64),
            Float(f64),
            String(String),
        }
        let text = match Value::deserialize(from)
            .map_err(|_| serde::de::Error::custom("this takes a string or a number"))?
        {
            Value::Bool(value) => value.to_string(),
            Value::Integer(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::String(value) => value,
        };
        Ok(Text(text.into()))
    }
}

/// All options, with the names that they have on the command line.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Settings {
    /// What is preset: strict, standard, permissive [default: standard]
    #[arg(long, value_name = "PROFILE")]
    profile: Option<Text>,
    /// Use DIR as the root directory, instead of the host's system directories
    #[arg(long, value_name = "DIR")]
    root: Option<Text>,
    /// Show a host file or directory, read-only
    #[arg(long, value_name = "SRC[:DST]")]
    ro: Vec<Text>,
    /// Show a host file or directory; writes reach the host
    #[arg(long, value_name = "SRC[:DST]")]
    rw: Vec<Text>,
    /// Mount an empty file system in memory
    #[arg(long, value_name = "DST")]
    tmpfs: Vec<Text>,
    /// Set an environment variable, or pass the caller's on
    #[arg(long, short = 'e', value_name = "NAME[=VALUE]")]
    env: Vec<Text>,
    /// Working directory inside
    #[arg(long, short = 'w', value_name = "DIR")]
    workdir: Option<Text>,
    /// User and group inside, by number [default: the caller's]
    #[arg(long, short = 'u', value_name = "UID[:GID]")]
    user: Option<Text>,
    /// Give the program a capability of the sandbox: NET_RAW, ALL [default: all for user 0, else none]
    #[arg(long, value_name = "CAP")]
    cap_add: Vec<Text>,
    /// Take a capability away for good: SYS_ADMIN, ALL
    #[arg(long, value_name = "CAP")]
    cap_drop: Vec<Text>,
    /// Let programs that it starts keep a capability, whoever they run as
    #[arg(long, value_name = "CAP")]
    cap_ambient: Vec<Text>,
    /// Host name inside [default: rsentry]
    #[arg(long, value_name = "NAME")]
    hostname: Option<Text>,
    /// Filter system calls by a seccomp profile in JSON, as docker and OCI runtimes take it
    #[arg(long, value_name = "FILE")]
    seccomp: Option<Text>,
    /// Put the sandbox's processes under an AppArmor profile of the host's
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<Text>,
    /// Likewise, give them an SELinux label
    #[arg(long, value_name = "LABEL")]
    selinux_label: Option<Text>,
    /// Most memory, files in memory included: 512M, 1.5G
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    memory: Option<Text>,
    /// Most processor time per time: 2, 0.5
    #[arg(long, value_name = "N", help_heading = "Limits")]
    cpus: Option<Text>,
    /// Most processes and threads at once
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pids: Option<Text>,
    /// Most descriptors of a process; eight times as many open files in all
    #[arg(long, value_name = "N", help_heading = "Limits")]
    files: Option<Text>,
    /// Kill the sandbox after so much time: 10s, 500ms, 2m
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    wall: Option<Text>,
    /// Kill the sandbox after so much processor time
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    cpu_time: Option<Text>,
    /// Kill the sandbox when it has written so much to standard output and error together
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    output_limit: Option<Text>,
    /// Most bytes in file systems in memory, together
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    tmp_size: Option<Text>,
    /// Make a group of the host's for the sandbox: auto, none, a path, SLICE:PREFIX:NAME
    #[arg(long, value_name = "PLACE", help_heading = "Control group")]
    cgroup: Option<Text>,
    /// Run everything on these processors: 0-2,5
    #[arg(long, value_name = "LIST", help_heading = "Control group")]
    cpuset: Option<Text>,
    /// Share of processor time among neighbours: 1 to 10000, usually 100
    #[arg(long, value_name = "N", help_heading = "Control group")]
    cpu_weight: Option<Text>,
    /// Share of input and output, likewise
    #[arg(long, value_name = "N", help_heading = "Control group")]
    io_weight: Option<Text>,
    /// Limit a block device: '8:16 rbps=1048576 wiops=100'
    #[arg(long, value_name = "LIMITS", help_heading = "Control group")]
    io_max: Vec<Text>,
    /// How guest code is run: auto, ptrace, notify, notify-unpatched
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Text>,
    /// How exactly the program can tell the time: precise, coarse [default: coarse with the profile
    /// strict, else precise]
    #[arg(long, value_name = "CLOCK")]
    clock: Option<Text>,
    /// Print system calls: all, or those of a comma-separated list of names
    #[arg(
        long,
        value_name = "SET",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "all"
    )]
    strace: Option<Text>,
    /// Append log and strace lines to FILE, instead of printing them on standard error
    #[arg(long, value_name = "FILE")]
    log: Option<Text>,
    /// How log lines look: text, json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<Text>,
    /// Write audit records: to FILE (appended), fd:N, syslog, journald
    #[arg(long, value_name = "SINK", help_heading = "Audit")]
    audit: Option<Text>,
    /// Kill the sandbox if audit records cannot be written
    #[arg(long, help_heading = "Audit")]
    audit_required: bool,
    /// What to do about escapes tried, limits hit, records lost: log, kill, exec:CMD
    #[arg(long, value_name = "ACTION", help_heading = "Audit")]
    on_alert: Vec<Text>,
    /// The sandbox's name in audit records [default: a random one]
    #[arg(long, value_name = "NAME", help_heading = "Audit")]
    id: Option<Text>,
    /// Write to FILE, as JSON, how the sandbox ended and what it used
    #[arg(long, value_name = "FILE")]
    report: Option<Text>,
}

impl Settings {
    /// Reads a policy file, and checks all of it.
    pub(crate) fn from_file(path: &Path) -> Result<Settings, Error> {
        let problem = |problem: &str| Error::option("--policy", format!("{path:?}: {problem}"));
        let size = std::fs::metadata(path).map_err(|e| problem(&plain(&e)))?.len();
        if size > MAX_POLICY {
            return Err(problem("too long"));
        }
        let text = std::fs::read_to_string(path).map_err(|e| problem(&plain(&e)))?;
        Settings::from_text(&text).map_err(|what| problem(&what))
    }

    /// The text of a policy file, checked; or what is wrong with it.
    pub(crate) fn from_text(text: &str) -> Result<Settings, String> {
        let settings: Settings = toml::from_str(text).map_err(|error| {
            let line = error.span().and_then(|span| text.get(..span.start));
            let line = line.map_or(1, |before| before.matches('\n').count() + 1);
            format!("line {line}: {}", error.message())
        })?;
        // What is wrong is the file's fault, also where the command line goes over it.
        match settings.sandbox(Vec::new()) {
            Ok(_) => Ok(settings),
            Err(Error::Option { option, problem }) => {
                Err(format!("{}: {problem}", option.trim_start_matches('-')))
            }
            Err(other) => Err(other.to_string()),
        }
    }

    /// These settings, and what they do not say from `base`.
    pub(crate) fn over(self, base: Settings) -> Settings {
        let both = |first: Vec<Text>, second: Vec<Text>| [first, second].concat();
        Settings {
            profile: self.profile.or(base.profile),
            root: self.root.or(base.root),
            ro: both(base.ro, self.ro),
            rw: both(base.rw, self.rw),
            tmpfs: both(base.tmpfs, self.tmpfs),
            env: both(base.env, self.env),
            workdir: self.workdir.or(base.workdir),
            user: self.user.or(base.user),
            cap_add: both(base.cap_add, self.cap_add),
            cap_drop: both(base.cap_drop, self.cap_drop),
            cap_ambient: both(base.cap_ambient, self.cap_ambient),
            hostname: self.hostname.or(base.hostname),
            seccomp: self.seccomp.or(base.seccomp),
            apparmor: self.apparmor.or(base.apparmor),
            selinux_label: self.selinux_label.or(base.selinux_label),
            memory: self.memory.or(base.memory),
            cpus: self.cpus.or(base.cpus),
            pids: self.pids.or(base.pids),
            files: self.files.or(base.files),
            wall: self.wall.or(base.wall),
            cpu_time: self.cpu_time.or(base.cpu_time),
            output_limit: self.output_limit.or(base.output_limit),
            tmp_size: self.tmp_size.or(base.tmp_size),
            cgroup: self.cgroup.or(base.cgroup),
            cpuset: self.cpuset.or(base.cpuset),
            cpu_weight: self.cpu_weight.or(base.cpu_weight),
            io_weight: self.io_weight.or(base.io_weight),
            io_max: both(base.io_max, self.io_max),
            platform: self.platform.or(base.platform),
            clock: self.clock.or(base.clock),
            strace: self.strace.or(base.strace),
            log: self.log.or(base.log),
            log_format: self.log_format.or(base.log_format),
            audit: self.audit.or(base.audit),
            audit_required: self.audit_required || base.audit_required,
            on_alert: both(base.on_alert, self.on_alert),
            id: self.id.or(base.id),
            report: self.report.or(base.report),
        }
    }

    /// Where the report goes.
    pub(crate) fn report(&self) -> Option<PathBuf> {
        self.report.as_ref().map(|path| PathBuf::from(&path.0))
    }

    /// What all of it means, for this program.
    pub(crate) fn sandbox(&self, command: Vec<OsString>) -> Result<Sandbox, Error> {
        let mut binds = Vec::new();
        for (option, values, writable) in [("--ro", &self.ro, false), ("--rw", &self.rw, true)] {
            for value in values {
                binds.push(bind(option, &value.0, writable)?);
            }
        }
        Ok(Sandbox {
            command,
            profile: self.profile.as_ref().map(|name| profile(&name.0)).transpose()?,
            root: self.root.as_ref().map(|path| PathBuf::from(&path.0)),
            binds,
            tmpfs: self.tmpfs.iter().map(|path| PathBuf::from(&path.0)).collect(),
            env: self.env.iter().map(|value| variable(&value.0)).collect::<Result<_, _>>()?,
            workdir: self.workdir.as_ref().map(|path| PathBuf::from(&path.0)),
            user: self.user.as_ref().map(|value| user(&value.0)).transpose()?,
            capabilities: self.capabilities()?,
            hostname: self.hostname.as_ref().map(|name| name.0.clone()),
            seccomp: self.seccomp.as_ref().map(|path| PathBuf::from(&path.0)),
            apparmor: self.apparmor.as_ref().map(|it| it.0.to_string_lossy().into_owned()),
            selinux_label: self
                .selinux_label
                .as_ref()
                .map(|it| it.0.to_string_lossy().into_owned()),
            limits: self.limits()?,
            cgroup: self.cgroup()?,
            platform: match &self.platform {
                Some(name) => platform(&name.0)?,
                None => PlatformChoice::default(),
            },
            clock: self.clock.as_ref().map(|name| clock(&name.0)).transpose()?,
            strace: self.strace.as_ref().map(|set| strace(&set.0)).transpose()?,
            log: self.log.as_ref().map(|path| PathBuf::from(&path.0)),
            log_format: match self.log_format.as_ref().map(|name| name.0.as_bytes()) {
                None | Some(b"text") => LogFormat::Text,
                Some(b"json") => LogFormat::Json,
                Some(other) => {
                    let value = OsStr::from_bytes(other);
                    return Err(unknown("--log-format", value, "text, json"));
                }
            },
            audit: self.audit()?,
        })
    }

    /// Names of capabilities may be newer than rsentry in a file; on the command line they are slips.
    pub(crate) fn check_capabilities(&self) -> Result<(), Error> {
        match self.capabilities()?.unknown().into_iter().next() {
            None => Ok(()),
            Some((option, name)) => {
                Err(Error::option(option, format!("no capability is called {name:?}")))
            }
        }
    }

    fn capabilities(&self) -> Result<Capabilities, Error> {
        let names = |all: &[Text]| -> Vec<String> {
            all.iter().map(|name| name.0.to_string_lossy().into_owned()).collect()
        };
        let capabilities = Capabilities {
            add: names(&self.cap_add),
            drop: names(&self.cap_drop),
            ambient: names(&self.cap_ambient),
        };
        capabilities.check()?;
        Ok(capabilities)
    }

    fn audit(&self) -> Result<Audit, Error> {
        let sink = self.audit.as_ref().map(|sink| SinkChoice::parse(&sink.0)).transpose()?;
        if self.audit_required && sink.is_none() {
            return Err(Error::option("--audit-required", "there is no --audit"));
        }
        Ok(Audit {
            sink,
            required: self.audit_required,
            on_alert: OnAlert::parse_all(self.on_alert.iter().map(|action| &*action.0))?,
            id: self.id.as_ref().map(|name| audit::id(&name.0)).transpose()?,
        })
    }

    fn cgroup(&self) -> Result<Cgroup, Error> {
        let text =
            |value: &Option<Text>| value.as_ref().map(|it| it.0.to_string_lossy().into_owned());
        let weight = |option, value: &Option<Text>| {
            text(value).map(|text| limits::count(option, &text)).transpose()
        };
        let cgroup = Cgroup {
            place: text(&self.cgroup),
            cpuset: text(&self.cpuset),
            cpu_weight: weight("--cpu-weight", &self.cpu_weight)?,
            io_weight: weight("--io-weight", &self.io_weight)?,
            io_max: self.io_max.iter().map(|it| it.0.to_string_lossy().into_owned()).collect(),
        };
        cgroup.place()?;
        cgroup.limits(&Limits::default())?;
        Ok(cgroup)
    }

    fn limits(&self) -> Result<Limits, Error> {
        fn read<T>(
            option: &'static str,
            value: &Option<Text>,
            parse: fn(&'static str, &str) -> Result<T, Error>,
        ) -> Result<Option<T>, Error> {
            let Some(Text(text)) = value else { return Ok(None) };
            parse(option, &text.to_string_lossy()).map(Some)
        }
        let limits = Limits {
            memory: read("--memory", &self.memory, limits::size)?,
            cpus: read("--cpus", &self.cpus, limits::cpus)?,
            pids: read("--pids", &self.pids, limits::count)?,
            files: read("--files", &self.files, limits::count)?,
            wall: read("--wall", &self.wall, limits::duration)?,
            cpu_time: read("--cpu-time", &self.cpu_time, limits::duration)?,
            output: read("--output-limit", &self.output_limit, limits::size)?,
            tmp_size: read("--tmp-size", &self.tmp_size, limits::size)?,
        };
        limits.check()?;
        Ok(limits)
    }
}

/// What is not one of those that there are.
pub(crate) fn unknown(option: &'static str, value: &OsStr, known: &str) -> Error {
    Error::option(option, format!("{value:?} is not one of: {known}"))
}

/// One of [`Profile::NAMES`].
fn profile(value: &OsStr) -> Result<Profile, Error> {
    let known = Profile::NAMES.iter().find(|(name, _)| value == *name);
    known.map(|&(_, profile)| profile).ok_or_else(|| {
        let names: Vec<&str> = Profile::NAMES.iter().map(|&(name, _)| name).collect();
        unknown("--profile", value, &names.join(", "))
    })
}

/// One of [`PlatformChoice::NAMES`].
fn platform(value: &OsStr) -> Result<PlatformChoice, Error> {
    let names = PlatformChoice::NAMES;
    let known = names.iter().find(|(name, _)| value == *name);
    known.map(|&(_, choice)| choice).ok_or_else(|| {
        let names: Vec<&str> = names.iter().map(|&(name, _)| name).collect();
        unknown("--platform", value, &names.join(", "))
    })
}

/// One of [`ClockChoice::NAMES`].
fn clock(value: &OsStr) -> Result<ClockChoice, Error> {
    let known = ClockChoice::NAMES.iter().find(|(name, _)| value == *name);
    known.map(|&(_, choice)| choice).ok_or_else(|| {
        let names: Vec<&str> = ClockChoice::NAMES.iter().map(|&(name, _)| name).collect();
        unknown("--clock", value, &names.join(", "))
    })
}

/// `SRC[:DST]`. The last colon that is followed by a slash is the separator, so that neither
/// side has to be free of colons.
fn bind(option: &'static str, value: &OsStr, writable: bool) -> Result<Bind, Error> {
    let bytes = value.as_bytes();
    let split = bytes.windows(2).rposition(|pair| pair == b":/");
    let (source, destination) = match split {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None if bytes.contains(&b':') => {
            let problem = format!("{value:?}: the part after ':' must be an absolute path");
            return Err(Error::option(option, problem));
        }
        None => (bytes, None),
    };
    if source.is_empty() {
        return Err(Error::option(option, format!("{value:?}: no source given")));
    }
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    Ok(Bind { source: path(source), destination: destination.map(path), writable })
}

/// `NAME[=VALUE]`.
fn variable(value: &OsStr) -> Result<(OsString, Option<OsString>), Error> {
    let mut parts = value.as_bytes().splitn(2, |&byte| byte == b'=');
    let name = parts.next().unwrap_or_default();
    if name.is_empty() {
        return Err(Error::option("--env", format!("{value:?}: no variable name given")));
    }
    let own = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    Ok((own(name), parts.next().map(own)))
}

/// `UID[:GID]`; the group is the same number as the user if it is not given.
fn user(value: &OsStr) -> Result<User, Error> {
    let problem = || {
        Error::option(
            "--user",
            format!("{value:?} is not UID or UID:GID, with numbers below 2^32-1"),
        )
    };
    // 2^32-1 is -1, which Linux keeps for "no change".
    let id = |text: &str| match text.parse::<u32>() {
        Ok(id) if id != u32::MAX && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(id),
        _ => Err(problem()),
    };
    let text = value.to_str().ok_or_else(problem)?;
    match text.split_once(':') {
        Some((uid, gid)) => Ok(User { uid: id(uid)?, gid: id(gid)? }),
        None => id(text).map(|id| User { uid: id, gid: id }),
    }
}

/// `all` or a list of names.
fn strace(value: &OsStr) -> Result<StraceFilter, Error> {
    let problem = || {
        Error::option("--strace", format!("{value:?} is not 'all' or a list of system call names"))
    };
    let text = value.to_str().ok_or_else(problem)?;
    if text == "all" {
        return Ok(StraceFilter::All);
    }
    let is_name = |name: &str| {
        let bytes = name.bytes();
        !name.is_empty() && bytes.into_iter().all(|b| b == b'_' || b.is_ascii_alphanumeric())
    };
    let names: Vec<String> = text.split(',').map(str::to_owned).collect();
    if names.iter().all(|name| is_name(name)) {
        Ok(StraceFilter::Only(names))
    } else {
        Err(problem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_split_at_the_last_colon_before_a_slash() {
        let parts = |value: &str| {
            let bind = bind("--ro", OsStr::new(value), false).ok()?;
            let destination = bind.destination.map(|path| path.to_str().unwrap().to_owned());
            Some((bind.source.to_str().unwrap().to_owned(), destination))
        };
        assert_eq!(parts("a"), Some(("a".into(), None)));
        assert_eq!(parts("a:/b"), Some(("a".into(), Some("/b".into()))));
        assert_eq!(parts("a:b:/c:d"), Some(("a:b".into(), Some("/c:d".into()))));
        assert_eq!(parts("a:b"), None);
        assert_eq!(parts(":/b"), None);
        assert_eq!(parts(""), None);
    }

    #[test]
    fn users_are_numbers() {
        let ids = |value: &str| user(OsStr::new(value)).ok().map(|user| (user.uid, user.gid));
        assert_eq!(ids("7"), Some((7, 7)));
        assert_eq!(ids("7:8"), Some((7, 8)));
        for bad in ["", "x", "7:", ":7", "-1", "+1", "4294967295", "7:8:9", "1 "] {
            assert_eq!(ids(bad), None, "{bad}");
        }
    }

    fn text(value: &str) -> Option<Text> {
        Some(Text(value.into()))
    }

    fn policy(content: &str) -> Result<Settings, Error> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.toml");
        std::fs::write(&path, content).unwrap();
        Settings::from_file(&path)
    }

    #[test]
    fn a_policy_has_the_names_of_the_flags() {
        let settings = policy(
            "profile = 'strict'\nmemory = '64M'\npids = 12\ncpus = 0.5\nro = ['/a', '/b:/c']\n\
             clock = 'coarse'\ncpu-time = '2s'\noutput-limit = 1024\ntmp-size = '1M'\nlog-format = 'json'\n",
        );
        let sandbox = settings.unwrap().sandbox(vec!["true".into()]).unwrap();
        assert_eq!(sandbox.profile, Some(Profile::Strict));
        assert_eq!(sandbox.limits.memory, Some(64 << 20));
        assert_eq!(sandbox.limits.cpus, Some(500));
        assert_eq!(sandbox.limits.pids, Some(12));
        assert_eq!(sandbox.limits.output, Some(1024));
        assert_eq!(sandbox.clock, Some(ClockChoice::Coarse));
        assert_eq!(sandbox.binds.len(), 2);
        assert_eq!(sandbox.log_format, LogFormat::Json);
    }

    #[test]
    fn mistakes_in_a_policy_are_named_with_their_line() {
        for (content, line, key) in [
            ("memory = '1G'\nmemroy = '2G'\n", "line 2", "memroy"),
            ("memory = '1X'\n", "memory", "1X"),
            ("pids = []\n", "line 1", "string or a number"),
            ("pids = 1\npids = 2\n", "line 2", "duplicate"),
            ("[limits]\npids = 1\n", "line 1", "limits"),
            ("policy = 'other.toml'\n", "line 1", "policy"),
            ("user = 'root'\n", "user", "root"),
            ("cap-add = ['KILL']\ncap-drop = ['kill']\n", "cap-drop", "CAP_KILL"),
            ("cap-ambient = ['KILL']\ncap-drop = ['ALL']\n", "cap-ambient", "CAP_KILL"),
            ("clock = 'fine'\n", "clock", "fine"),
            ("= 3", "line 1", ""),
        ] {
            let error = policy(content).unwrap_err().one_line();
            assert!(error.starts_with("--policy: "), "{error}");
            assert!(error.contains(line) && error.contains(key), "{content}: {error}");
        }
    }

    #[test]
    fn flags_go_over_the_policy_and_lists_add_up() {
        let flags =
            Settings { memory: text("16M"), ro: vec![Text("/flag".into())], ..Settings::default() };
        let file = policy("memory = '32M'\npids = 5\nro = ['/file']").unwrap();
        let all = flags.over(file);
        assert_eq!(all.memory, text("16M"));
        assert_eq!(all.pids, text("5"));
        assert_eq!(all.ro, [Text("/file".into()), Text("/flag".into())]);
    }

    proptest::proptest! {
        #[test]
        fn no_policy_breaks_the_parser(content in "(\\PC|\n){0,80}") {
            if let Ok(settings) = toml::from_str::<Settings>(&content) {
                let _ = settings.sandbox(Vec::new());
            }
        }
    }
}
