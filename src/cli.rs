//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::check::{Check, Severity};
use crate::error::Error;
use crate::events::{self, Events};
use crate::features;
use crate::sandbox::Sandbox;
use crate::settings::{Settings, unknown};

/// What the command line asks for.
#[derive(Debug)]
pub enum Action {
    /// Print this and succeed: help or the version.
    Print(String),
    /// Run a sandbox.
    Run {
        /// Which.
        sandbox: Box<Sandbox>,
        /// Where the report goes.
        report: Option<PathBuf>,
    },
    /// Judge a configuration.
    Check(Check),
    /// Follow an audit file.
    Events(Events),
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

A SIZE is bytes, or has one of the units K, M, G, T; a TIME is seconds, or has one of ms, s, m, h; \
'none' is no limit. A policy file is TOML, with the names of the options as keys; options go over it, \
and it goes over the profile.

Exit status: the program's; 128+N if signal N killed it; 124 if the time was up (--wall), 152 if the \
processor time was (--cpu-time), 137 if the program was killed for want of memory (--memory), 153 if it \
wrote too much (--output-limit); 125 if rsentry failed; 126 if the program cannot be executed; 127 if it \
was not found."
    )]
    Run(Box<RunArgs>),
    /// Report what weakens a sandbox, of an OCI config.json or a policy file
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
    /// Show the records of an audit file, and those that come, until its sandboxes have ended
    #[command(override_usage = "rsentry events [OPTIONS] FILE")]
    Events(EventsArgs),
}

#[derive(Debug, Args)]
struct EventsArgs {
    /// Only these kinds of records, separated by commas
    #[arg(long, value_name = "KIND,...")]
    kind: Option<OsString>,
    /// Only records of this sandbox
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
    /// Print the records as they are
    #[arg(long)]
    json: bool,
    /// Show what is there, and do not wait for more
    #[arg(long)]
    no_follow: bool,
    /// The audit file; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl EventsArgs {
    fn events(self) -> Result<Events, Error> {
        Ok(Events {
            file: self.file,
            kinds: self.kind.as_deref().map(events::kinds).transpose()?.unwrap_or_default(),
            sandbox: self.id,
            json: self.json,
            follow: !self.no_follow,
        })
    }
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
    #[command(flatten)]
    settings: Settings,
    /// Read options from a TOML file
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
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
            let run = |(sandbox, report)| Action::Run { sandbox: Box::new(sandbox), report };
            arguments.sandbox().map(run)
        }
        Some(Command::Features { json }) => return Action::Print(features::report(json)),
        Some(Command::Check(arguments)) => arguments.check().map(Action::Check),
        Some(Command::Events(arguments)) => arguments.events().map(Action::Events),
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
    fn sandbox(self) -> Result<(Sandbox, Option<PathBuf>), Error> {
        if self.command.is_empty() {
            let problem = "no program given; usage: rsentry run [OPTIONS] [--] CMD [ARG...]";
            return Err(Error::Usage(problem.into()));
        }
        self.settings.check_capabilities()?;
        let settings = match &self.policy {
            None => self.settings,
            Some(path) => self.settings.over(Settings::from_file(path)?),
        };
        Ok((settings.sandbox(self.command)?, settings.report()))
    }
}

#[cfg(test)]
mod tests {
    use sentry::boot::spec::{PlatformChoice, StraceFilter};

    use super::*;

    fn run(arguments: &[&str]) -> Result<Sandbox, Error> {
        let all = ["rsentry", "run"].iter().chain(arguments).map(OsString::from);
        match parse(all) {
            Action::Run { sandbox, .. } => Ok(*sandbox),
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
    fn every_complaint_is_one_line() {
        for bad in [&["--nope", "ls"][..], &[], &["--root"], &["--user=x", "ls"], &["--ro", ":/x"]]
        {
            let text = run(bad).unwrap_err().one_line();
            assert!(!text.is_empty() && !text.contains('\n'), "{text}");
        }
    }
}
