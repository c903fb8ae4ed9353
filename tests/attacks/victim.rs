//! The victim: a process of another user that keeps secrets, and notices if they change.

use super::asm;
use super::probe::successor;
use super::share::{self, Share};

/// The victim's user.
pub const USER: u32 = 2002;
/// How much it keeps.
const WORDS: usize = 1 << 17;

fn fill(words: &mut [u64], mut word: u64) {
    for slot in words {
        *slot = word;
        word = successor(word);
    }
}

fn is_intact(words: &[u64], first: u64) -> bool {
    words.first() == Some(&first) && words.windows(2).all(|w| w[1] == successor(w[0]))
}

/// Lives until it is killed: answers each ping once it has looked at its memory, and leaves
/// memory and registers full of secrets behind again and again.
fn live(share: &Share) -> ! {
    let mut first = [0u8; 8];
    // SAFETY: fills the buffer.
    assert_eq!(unsafe { libc::getrandom(first.as_mut_ptr().cast(), 8, 0) }, 8);
    let first = u64::from_ne_bytes(first);
    let mut words = vec![0; WORDS];
    fill(&mut words, first);
    let mut vectors = [0; 32];
    fill(&mut vectors, first);
    let mut churn = 0u64;
    loop {
        if !is_intact(&words, first) {
            share.fail("the victim's memory changed");
            std::process::exit(1);
        }
        share.pong();
        churn += 1;
        if churn.is_multiple_of(8) {
            let mut freed = vec![0; WORDS / 4];
            fill(&mut freed, first ^ churn);
            drop(std::hint::black_box(freed));
        }
        if churn.is_multiple_of(64) {
            // SAFETY: the child only makes system calls.
            unsafe {
                let child = libc::fork();
                if child == 0 {
                    asm::syscall_with_vectors(libc::SYS_getpid as u64, 0, &vectors);
                    asm::syscall_with_vectors(libc::SYS_exit_group as u64, 0, &vectors);
                }
                libc::waitpid(child, std::ptr::null_mut(), 0);
            }
        }
        share::doze(2);
    }
}

/// The supervisor's handle.
pub struct Victim {
    pub pid: i32,
}

impl Victim {
    /// Starts it.
    pub fn start(share: &'static Share) -> Victim {
        // SAFETY: the process has one thread.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "cannot fork");
        if pid == 0 {
            share::become_user(USER);
            live(share);
        }
        Victim { pid }
    }

    /// Whether it is alive, answers, and has found nothing wrong.
    pub fn check(&self, share: &Share) -> Result<(), String> {
        let before = share.pongs();
        let start = share::now();
        // Two answers: the first may have been under way.
        while share.pongs().wrapping_sub(before) < 2 {
            // SAFETY: no status is asked for.
            if unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::WNOHANG) } != 0 {
                return Err("the victim died".into());
            }
            if share::now() - start > share::PATIENCE {
                return Err("the victim does not answer".into());
            }
            share::doze(1);
        }
        Ok(())
    }
}
