//! `rsentry run` at a terminal: what a person types and sees.

use std::os::unix::process::ExitStatusExt;

use rsentry_tests::{Sandboxes, Terminal, eventually, wait};

/// A shell that a person could use, without start-up files and line editing.
const SHELL: [&str; 8] =
    ["run", "--env", "PS1=ready> ", "bash", "--norc", "--noprofile", "--noediting", "-i"];

fn shell(sandboxes: &Sandboxes, terminal: &mut Terminal) -> std::process::Child {
    let mut command = sandboxes.command(&SHELL);
    command.env("TERM", "xterm");
    let child = terminal.spawn(command);
    terminal.expect("ready> ");
    child
}

fn the_program_has_a_terminal_of_the_right_size(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let mut terminal = Terminal::new(33, 99);
    let mut child = shell(&sandboxes, &mut terminal);
    terminal.send("tty; stty size; test -t 0 -a -t 1 -a -t 2 && echo all \"\"three\r");
    let seen = terminal.expect("all three\r\n");
    assert!(seen.contains("/dev/pts/0\r\n33 99\r\n"), "{seen:?}");
    // Not by a trap of bash, which loses some while it reads a line.
    let wait_for_news = r#"perl -e '$| = 1; $SIG{WINCH} = sub { print "resi", "zed\n"; exit };
        print "wait", "ing\n"; sleep 1 while 1'"#;
    terminal.send(&format!("{}\r", wait_for_news.replace('\n', "")));
    terminal.expect("waiting\r\n");
    terminal.resize(44, 111);
    terminal.expect("resized\r\n");
    terminal.send("stty size\r");
    terminal.expect("44 111\r\n");
    terminal.send("exit 5\r");
    assert_eq!(wait(&mut child).code(), Some(5));
    assert!(terminal.is_cooked(), "the terminal was left in raw mode");
    sandboxes.assert_nothing_left();
}

fn control_c_interrupts_the_foreground_job_only(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let mut terminal = Terminal::new(24, 80);
    let mut child = shell(&sandboxes, &mut terminal);
    // It says by itself that it is in the foreground.
    terminal.send("sh -c 'echo run\"\"ning; exec sleep 1000'\r");
    terminal.expect("running\r\n");
    terminal.send("\x03");
    terminal.expect("^C");
    terminal.expect("ready> ");
    terminal.send("echo status $?\r");
    terminal.expect("status 130");
    terminal.expect("ready> ");
    terminal.send("exit 6\r");
    assert_eq!(wait(&mut child).code(), Some(6));
    sandboxes.assert_nothing_left();
}

fn control_z_stops_a_job_and_fg_continues_it(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let mut terminal = Terminal::new(24, 80);
    let mut child = shell(&sandboxes, &mut terminal);
    terminal.send("cat\r");
    terminal.send("one\r");
    terminal.expect("one\r\none\r\n");
    terminal.send("\x1a");
    terminal.expect("Stopped");
    terminal.expect("ready> ");
    terminal.send("jobs | grep -c Stopped\r");
    terminal.expect("\n1\r\n");
    terminal.expect("ready> ");
    terminal.send("fg\r");
    terminal.expect("fg\r\ncat\r\n");
    terminal.send("two\r");
    terminal.expect("two\r\ntwo\r\n");
    terminal.send("\x04");
    terminal.expect("ready> ");
    terminal.send("exit\r");
    assert_eq!(wait(&mut child).code(), Some(0));
    sandboxes.assert_nothing_left();
}

fn editors_get_raw_mode_and_the_terminal_back_to_what_it_was(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let mut terminal = Terminal::new(24, 80);
    let mut command =
        sandboxes.command(&["run", "sh", "-c", "vi -u NONE file && cat file && stty -a"]);
    command.env("TERM", "xterm");
    let mut child = terminal.spawn(command);
    terminal.expect("~");
    terminal.send("ihello from vi\x1b");
    terminal.send(":wq\r");
    terminal.expect("hello from vi\r\n");
    let modes = terminal.expect("echoke");
    assert!(modes.contains(" icanon ") && modes.contains(" echo "), "{modes:?}");
    assert_eq!(wait(&mut child).code(), Some(0));
    assert!(terminal.is_cooked());
    sandboxes.assert_nothing_left();
}

fn top_shows_the_sandboxes_processes(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let mut terminal = Terminal::new(24, 80);
    let mut command = sandboxes.command(&["run", "top"]);
    command.env("TERM", "xterm");
    let mut child = terminal.spawn(command);
    terminal.expect("PID USER");
    terminal.expect("top");
    terminal.send("q");
    assert_eq!(wait(&mut child).code(), Some(0));
    assert!(terminal.is_cooked());
    sandboxes.assert_nothing_left();
}

fn a_stopped_launcher_gives_the_terminal_back_and_goes_on_when_continued(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let mut terminal = Terminal::new(24, 80);
    // In a shell of the host, so that the launcher's process group is not an orphan.
    let mut host = std::process::Command::new("bash");
    host.args(["--norc", "--noprofile", "--noediting", "-i"])
        .env("PS1", "host> ")
        .current_dir(sandboxes.work());
    let mut host = terminal.spawn(host);
    terminal.expect("host> ");
    terminal.send(&format!("{}\r", sandboxes.line(&["run", "cat"])));
    eventually("the terminal is raw", || !terminal.is_cooked());
    terminal.send("one\r");
    terminal.expect("one\r\none\r\n");
    let launcher = rsentry_tests::Process::children(host.id()).pop().expect("the launcher");
    // SAFETY: plain numbers.
    unsafe { libc::kill(launcher.pid as i32, libc::SIGTSTP) };
    terminal.expect("Stopped");
    terminal.expect("host> ");
    terminal.send("fg\r");
    eventually("the terminal is raw again", || !terminal.is_cooked());
    terminal.send("two\r");
    terminal.expect("two\r\ntwo\r\n");
    terminal.send("\x04");
    terminal.expect("host> ");
    assert!(sandboxes.processes().is_empty());
    terminal.send("exit 0\r");
    assert_eq!(wait(&mut host).into_raw(), 0);
}

fn in_a_pipeline_the_terminal_is_left_alone(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let mut terminal = Terminal::new(24, 80);
    let mut command = std::process::Command::new("sh");
    let run = sandboxes.line(&["run", "sh", "-c"]);
    let script = format!("{run} 'test -t 1 || echo piped; cat' | cat");
    command.args(["-c", &script]).current_dir(sandboxes.work());
    let mut child = terminal.spawn(command);
    terminal.expect("piped\r\n");
    assert!(terminal.is_cooked());
    terminal.send("line\r\x04");
    terminal.expect("line\r\nline\r\n");
    assert_eq!(wait(&mut child).code(), Some(0));
    sandboxes.assert_nothing_left();
}

rsentry_tests::on_every_platform! {
    the_program_has_a_terminal_of_the_right_size,
    control_c_interrupts_the_foreground_job_only,
    control_z_stops_a_job_and_fg_continues_it,
    editors_get_raw_mode_and_the_terminal_back_to_what_it_was,
    top_shows_the_sandboxes_processes,
    a_stopped_launcher_gives_the_terminal_back_and_goes_on_when_continued,
    in_a_pipeline_the_terminal_is_left_alone,
}
