//! Log lines.
//!
//! The gofer and the Sentry inherit the subscriber by fork, but not the descriptor numbers, so the
//! writer looks its descriptor up each time.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use sentry::boot::spec::LogFormat;
use tracing_subscriber::filter::LevelFilter;

/// The descriptor that log lines go to in this process.
static DESCRIPTOR: AtomicI32 = AtomicI32::new(libc::STDERR_FILENO);

/// Says which descriptor log lines go to from now on in this process.
pub(crate) fn use_descriptor(fd: RawFd) {
    DESCRIPTOR.store(fd, Ordering::Relaxed);
}

/// Starts logging, to standard error until the launcher says otherwise. Does nothing if the
/// process has a subscriber already. To a file everything down to `info` goes, to standard error,
/// between the program's own output, only warnings and errors.
pub(crate) fn start(format: LogFormat, to_file: bool) {
    let level = if to_file { LevelFilter::INFO } else { LevelFilter::WARN };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_target(false)
        .with_writer(|| Writer);
    // An error means that the embedding program has a subscriber of its own.
    let _ = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text if to_file => builder.try_init(),
        LogFormat::Text => builder.without_time().try_init(),
    };
}

/// Writes each line with one call.
struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fd = DESCRIPTOR.load(Ordering::Relaxed);
        // SAFETY: `bytes` is valid for reads of its length.
        let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
