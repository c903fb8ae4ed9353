//! FIFOs: pipes that are found by an inode, and the rendezvous of their openers (fifo(7)).

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::Mutex;

use super::{Pipe, PipeEnd};
use crate::kernel::{Events, Task};
use crate::vfs::{InodeKey, OpenFlags};

/// The pipes of FIFOs that are open somewhere.
static FIFOS: Mutex<Option<HashMap<InodeKey, Weak<Pipe>>>> = Mutex::new(None);

/// Opens the FIFO with this key. Blocks until the other side is open too, unless `O_NONBLOCK`
/// (`ENXIO` for a writer without readers) or `O_RDWR`. `ERESTARTSYS`, `ENFILE`.
pub fn open_fifo(task: &Task, key: InodeKey, flags: OpenFlags) -> Result<PipeEnd, Errno> {
    let (pipe, end) = {
        let mut fifos = FIFOS.lock();
        let fifos = fifos.get_or_insert_default();
        let pipe = match fifos.get(&key).and_then(Weak::upgrade) {
            Some(pipe) => pipe,
            None => {
                let pipe = Pipe::new(&task.cred(), Some(key))?;
                fifos.insert(key, Arc::downgrade(&pipe));
                pipe
            }
        };
        let writes_only = flags.writable() && !flags.readable();
        let readers = pipe.state.lock().readers;
        if writes_only && flags.contains(OpenFlags::NONBLOCK) && readers == 0 {
            if pipe.state.lock().writers == 0 {
                fifos.remove(&key);
            }
            return Err(Errno::ENXIO);
        }
        // Opened under the registry's lock, so that nobody forgets the pipe in between.
        let end = pipe.open(flags);
        (pipe, end)
    };
    if flags.contains(OpenFlags::NONBLOCK) || (flags.readable() && flags.writable()) {
        return Ok(end);
    }
    let (readers, writers) = {
        let state = pipe.state.lock();
        (state.reader_opens, state.writer_opens)
    };
    let met = || {
        let state = pipe.state.lock();
        if flags.readable() {
            state.writers > 0 || state.writer_opens != writers
        } else {
            state.readers > 0 || state.reader_opens != readers
        }
    };
    let _registration = pipe.queue.register(Events::all(), task.sleeper.clone());
    while !met() {
        task.block(None)?;
    }
    Ok(end)
}

/// Drops a FIFO's pipe from the registry if nobody has it open.
pub(super) fn forget(pipe: &Arc<Pipe>) {
    let Some(key) = pipe.fifo else { return };
    let mut fifos = FIFOS.lock();
    let state = pipe.state.lock();
    if state.readers == 0
        && state.writers == 0
        && let Some(fifos) = fifos.as_mut()
        && fifos.get(&key).is_some_and(|p| std::ptr::eq(p.as_ptr(), Arc::as_ptr(pipe)))
    {
        fifos.remove(&key);
    }
}
