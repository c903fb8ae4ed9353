//! The host threads of tasks. Making one costs the host more than most system calls, so a few that
//! have nothing to do any more wait for the next task.
//!
//! Lock order: `idle`, alone.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};

use parking_lot::Mutex;

/// Stack of a host thread. Address space; only what is used costs memory.
pub(super) const STACK: usize = 1 << 20;
/// Most of them that wait: what a shell's pipeline or a server's burst of threads needs again soon.
const IDLE_MAX: usize = 8;

/// What a host thread does: runs a task up to its end.
type Job = Box<dyn FnOnce() + Send>;

/// See the module.
#[derive(Clone, Default)]
pub struct HostThreads {
    idle: Arc<Mutex<Vec<SyncSender<Job>>>>,
}

impl HostThreads {
    /// Has `job` done by a host thread that does nothing else meanwhile. Returns at once.
    ///
    /// # Errors
    /// If one is needed and the host gives none.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let idle = self.idle.lock().pop();
        match idle {
            // It waits for nothing else, so there is room.
            Some(thread) => thread
                .send(Box::new(job))
                .map_err(|_| io::Error::other("a host thread ended while it was idle")),
            None => self.start(Box::new(job)),
        }
    }

    fn start(&self, first: Job) -> io::Result<()> {
        let threads = self.clone();
        let body = move || {
            first();
            let (sender, jobs) = mpsc::sync_channel(1);
            while threads.keep(&sender)
                && let Ok(job) = jobs.recv()
            {
                job();
            }
        };
        std::thread::Builder::new().name("task".into()).stack_size(STACK).spawn(body).map(drop)
    }

    /// The calling thread has nothing to do. Returns whether it is to wait.
    fn keep(&self, thread: &SyncSender<Job>) -> bool {
        let mut idle = self.idle.lock();
        let keep = idle.len() < IDLE_MAX;
        if keep {
            idle.push(thread.clone());
        }
        keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::thread::ThreadId;

    fn run(threads: &HostThreads) -> ThreadId {
        let (sender, id) = mpsc::channel();
        threads.run(move || sender.send(std::thread::current().id()).unwrap()).unwrap();
        id.recv().unwrap()
    }

    fn wait_for_idle(threads: &HostThreads, wanted: usize) {
        while threads.idle.lock().len() != wanted {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_thread_does_one_job_after_the_other() {
        let threads = HostThreads::default();
        let first = run(&threads);
        wait_for_idle(&threads, 1);
        assert_eq!(run(&threads), first);
        assert_ne!(first, std::thread::current().id());
    }

    #[test]
    fn jobs_at_the_same_time_have_a_thread_each_and_few_stay() {
        let threads = HostThreads::default();
        let count = 3 * IDLE_MAX;
        let (ids, got) = mpsc::channel();
        let all_there = Arc::new(std::sync::Barrier::new(count));
        for _ in 0..count {
            let (ids, all_there) = (ids.clone(), all_there.clone());
            threads
                .run(move || {
                    all_there.wait();
                    ids.send(std::thread::current().id()).unwrap();
                })
                .unwrap();
        }
        let ids: HashSet<ThreadId> = got.iter().take(count).collect();
        assert_eq!(ids.len(), count);
        wait_for_idle(&threads, IDLE_MAX);
    }
}
