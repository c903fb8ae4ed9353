//! The command line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use sentry::boot::spec::{LogFormat, PlatformChoice, StraceFilter};

use crate::check::{Check, Severity};
use crate::error::Error;
use crate::features;
use crate::sandbox::{Bind, Sandbox, User};

/// What the command line asks for.
#[derive(Debug)]
pub enum Action {
    /// Print this and succeed: help or the version.
    Print(String),
    /// Run a sandbox.
    Run(Box<Sandbox>),
    /// Judge a configuration.
    Check(Check),
    /// Complain.
    Fail(Error),
}

#[derive(Debug, Parser)]
#[command(name = "rsentry", version, about, long_about = None, disable_help_subcommand = true, override_usage = "rsentry COMMAND [OPTIONS]")]
/// Runs untrusted Linux programs in a user-space kernel.
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a program in a sandbox
    #[command(
        override_usage = "rsentry run [OPTIONS] [--] CMD [ARG...]",
        after_help = "\
Without --root the program sees the host's system directories (/usr /bin /sbin /lib* /etc, without \
secrets) and the current directory. All of it can be written, and nothing of that reaches the host.

Exit status: the program's; 128+N if signal N killed it; 125 if rsentry failed; 126 if the program \
cannot be executed; 127 if it was not found."
    )]
    Run(Box<RunArgs>),
    /// Report what weakens a sandbox: of an OCI config.json
    #[command(
        override_usage = "rsentry check [OPTIONS] FILE",
        after_help = "\
Exit status: 0 if nothing is found, or only what is for your information; else by the worst: 1 low, \
2 medium, 3 high, 4 critical; 125 if FILE cannot be read or is malformed."
    )]
    Check(CheckArgs),
    /// Print what this host offers for sandboxes, and how many host calls each process may make
    Features {
        /// As one JSON object, with the calls' numbers
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Exit with 0 unless something this bad is found: info, low, medium, high, critical
    #[arg(long, value_name = "SEVERITY", default_value = "low", hide_default_value = true)]
    fail_on: OsString,
    /// The file; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl CheckArgs {
    fn check(self) -> Result<Check, Error> {
        let mut names = Severity::NAMES.iter();
        let found = names.find(|(name, _)| self.fail_on == *name);
        let &(_, fail_on) = found.ok_or_else(|| {
            unknown("--fail-on", &self.fail_on, &Severity::NAMES.map(|(name, _)| name).join(", "))
        })?;
        Ok(Check { file: self.file, json: self.json, fail_on })
    }
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Use DIR as the root directory, instead of the host's system directories
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Show a host file or directory, read-only
    #[arg(long, value_name = "SRC[:DST]")]
    ro: Vec<OsString>,
    /// Show a host file or directory; writes reach the host
    #[arg(long, value_name = "SRC[:DST]")]
    rw: Vec<OsString>,
    /// Mount an empty file system in memory
    #[arg(long, value_name = "DST")]
    tmpfs: Vec<PathBuf>,
    /// Set an environment variable, or pass the caller's on
    #[arg(long, short = 'e', value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Working directory inside
    #[arg(long, short = 'w', value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// User and group inside, by number [default: the caller's]
    #[arg(long, short = 'u', value_name = "UID[:GID]")]
    user: Option<OsString>,
    /// Host name inside [default: rsentry]
    #[arg(long, value_name = "NAME")]
    hostname: Option<OsString>,
    /// How guest code is run: auto, ptrace, notify, notify-unpatched
    #[arg(long, value_name = "PLATFORM", default_value = "auto", hide_default_value = true)]
    platform: OsString,
    /// Print system calls: all, or those of a comma-separated list of names
    #[arg(
        long,
        value_name = "SET",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "all"
    )]
    strace: Option<OsString>,
    /// Append log and strace lines to FILE, instead of printing them on standard error
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// How log lines look: text, json
    #[arg(long, value_name = "FORMAT", default_value = "text", hide_default_value = true)]
    log_format: OsString,
    /// The program to run, and its arguments
    #[arg(value_name = "CMD", trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// Parses a command line, the program's own name first.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Action {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    let action = match cli.command {
        Some(Command::Run(arguments)) => {
            arguments.sandbox().map(|sandbox| Action::Run(Box::new(sandbox)))
        }
        Some(Command::Features { json }) => return Action::Print(features::report(json)),
        Some(Command::Check(arguments)) => arguments.check().map(Action::Check),
        None => Err(Error::Usage("no command given; see 'rsentry --help'".into())),
    };
    action.unwrap_or_else(Action::Fail)
}

/// clap's error as one line.
fn explain(error: &clap::Error) -> Action {
    let text = error.render().to_string();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Action::Print(text);
    }
    let line = text.lines().next().unwrap_or("bad command line");
    let line = line.strip_prefix("error: ").unwrap_or(line);
    Action::Fail(Error::Usage(format!("{line}; see 'rsentry --help'")))
}

impl RunArgs {
    fn sandbox(self) -> Result<Sandbox, Error> {
        if self.command.is_empty() {
            let problem = "no program given; usage: rsentry run [OPTIONS] [--] CMD [ARG...]";
            return Err(Error::Usage(problem.into()));
        }
        let mut binds = Vec::new();
        for (option, values, writable) in [("--ro", &self.ro, false), ("--rw", &self.rw, true)] {
            for value in values {
                binds.push(bind(option, value, writable)?);
            }
        }
        Ok(Sandbox {
            command: self.command,
            root: self.root,
            binds,
            tmpfs: self.tmpfs,
            env: self.env.iter().map(|value| variable(value)).collect::<Result<_, _>>()?,
            workdir: self.workdir,
            user: self.user.as_deref().map(user).transpose()?,
            hostname: self.hostname,
            platform: platform(&self.platform)?,
            strace: self.strace.as_deref().map(strace).transpose()?,
            log: self.log,
            log_format: match self.log_format.as_bytes() {
                b"text" => LogFormat::Text,
                b"json" => LogFormat::Json,
                _ => return Err(unknown("--log-format", &self.log_format, "text, json")),
            },
        })
    }
}

fn unknown(option: &'static str, value: &OsStr, known: &str) -> Error {
    Error::option(option, format!("{value:?} is not one of: {known}"))
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

    fn run(arguments: &[&str]) -> Result<Sandbox, Error> {
        let all = ["rsentry", "run"].iter().chain(arguments).map(OsString::from);
        match parse(all) {
            Action::Run(sandbox) => Ok(*sandbox),
            Action::Fail(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_end_at_the_program() {
        let sandbox = run(&["--hostname", "h", "ls", "-l", "--root", "/x", "--"]).unwrap();
        assert_eq!(sandbox.command, ["ls", "-l", "--root", "/x", "--"]);
        assert_eq!(sandbox.root, None);
        let sandbox = run(&["--", "--odd", "--", "-x"]).unwrap();
        assert_eq!(sandbox.command, ["--odd", "--", "-x"]);
    }

    #[test]
    fn strace_takes_its_set_only_after_an_equals_sign() {
        assert_eq!(run(&["--strace", "ls"]).unwrap().strace, Some(StraceFilter::All));
        let names = vec!["read".to_owned(), "openat2".to_owned()];
        let sandbox = run(&["--strace=read,openat2", "ls"]).unwrap();
        assert_eq!(sandbox.strace, Some(StraceFilter::Only(names)));
        assert!(run(&["--strace=read,,write", "ls"]).is_err());
    }

    #[test]
    fn platforms_have_names_that_the_help_lists() {
        for (name, choice) in PlatformChoice::NAMES {
            assert_eq!(run(&["--platform", name, "ls"]).unwrap().platform, choice);
        }
        assert_eq!(run(&["ls"]).unwrap().platform, PlatformChoice::Auto);
        let names = PlatformChoice::NAMES.map(|(name, _)| name).join(", ");
        let Action::Print(help) = parse(["rsentry", "run", "--help"].map(OsString::from)) else {
            panic!("no help")
        };
        assert!(help.contains(&names), "{help}");
        assert!(run(&["--platform", "magic", "ls"]).unwrap_err().one_line().contains(&names));
    }

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

    #[test]
    fn every_complaint_is_one_line() {
        for bad in [&["--nope", "ls"][..], &[], &["--root"], &["--user=x", "ls"], &["--ro", ":/x"]]
        {
            let text = run(bad).unwrap_err().one_line();
            assert!(!text.is_empty() && !text.contains('\n'), "{text}");
        }
    }
}
