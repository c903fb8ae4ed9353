use super::*;
use crate::fs::eventfd::{EventFd, new_eventfd};
use crate::kernel::Caps;

fn cred() -> Arc<Credentials> {
    Arc::new(Credentials::new(0, 0, &[], Caps::all()))
}

fn eventfd(count: u32) -> Arc<FileDescription> {
    new_eventfd(cred(), count, false, OpenFlags::empty()).unwrap()
}

fn epoll() -> Arc<FileDescription> {
    new_epoll(cred()).unwrap()
}

fn of(file: &Arc<FileDescription>) -> &Arc<Epoll> {
    file.downcast::<EpollFile>().unwrap().epoll()
}

fn add(ep: &Arc<FileDescription>, fd: i32, file: &Arc<FileDescription>, events: u32) {
    let request = Request { events, data: fd as u64 };
    of(ep).add(fd, file, request, &cred()).unwrap();
}

fn wait(ep: &Arc<FileDescription>) -> Vec<(u64, u32)> {
    let mut out = Vec::new();
    of(ep)
        .collect(10, |_, events, data| {
            out.push((data, events.bits()));
            Ok(())
        })
        .unwrap();
    out
}

fn signal(file: &Arc<FileDescription>) {
    file.downcast::<EventFd>().unwrap().signal(1);
}

const IN: u32 = 1;
const OUT: u32 = 4;

#[test]
fn level_triggered_watches_stay_ready() {
    let (ep, e) = (epoll(), eventfd(0));
    add(&ep, 5, &e, IN);
    assert_eq!(wait(&ep), []);
    signal(&e);
    assert_eq!(wait(&ep), [(5, IN)]);
    assert_eq!(wait(&ep), [(5, IN)]);
    let mut buf = [0; 8];
    e.ops().read(&mut crate::vfs::IoDst::kernel(&mut buf), 0).unwrap();
    assert_eq!(wait(&ep), []);
}

#[test]
fn edges_and_single_shots() {
    let (ep, e) = (epoll(), eventfd(1));
    add(&ep, 5, &e, IN | EDGE);
    assert_eq!(wait(&ep), [(5, IN)]);
    assert_eq!(wait(&ep), []);
    signal(&e);
    assert_eq!(wait(&ep), [(5, IN)]);
    of(&ep).modify(5, &e, Request { events: IN | OUT | ONESHOT, data: 9 }).unwrap();
    assert_eq!(wait(&ep), [(9, IN | OUT)]);
    signal(&e);
    assert_eq!(wait(&ep), []);
    of(&ep).modify(5, &e, Request { events: IN, data: 9 }).unwrap();
    assert_eq!(wait(&ep), [(9, IN)]);
}

#[test]
fn watches_end_with_their_file() {
    let (ep, e) = (epoll(), eventfd(1));
    add(&ep, 5, &e, IN);
    let again = of(&ep).add(5, &e, Request::default(), &cred());
    assert_eq!(again, Err(Errno::EEXIST));
    of(&ep).delete(5, &e).unwrap();
    assert_eq!(of(&ep).delete(5, &e), Err(Errno::ENOENT));
    assert_eq!(wait(&ep), []);
    add(&ep, 5, &e, IN);
    drop(e);
    assert_eq!(wait(&ep), []);
    assert!(of(&ep).watches.lock().is_empty());
}

#[test]
fn instances_nest_but_not_in_circles() {
    let (a, b, e) = (epoll(), epoll(), eventfd(0));
    add(&a, 1, &b, IN);
    add(&b, 2, &e, IN);
    assert_eq!(wait(&a), []);
    signal(&e);
    assert_eq!(wait(&a), [(1, IN)]);
    let circle = of(&b).add(3, &a, Request { events: IN, data: 0 }, &cred());
    assert_eq!(circle, Err(Errno::ELOOP));
    let chain: Vec<_> = (0..6).map(|_| epoll()).collect();
    for pair in chain.windows(2).take(4) {
        add(&pair[0], 1, &pair[1], IN);
    }
    let request = Request { events: IN, data: 0 };
    assert_eq!(of(&chain[4]).add(1, &chain[5], request, &cred()), Err(Errno::ELOOP));
}

#[test]
fn a_refused_event_stays_ready() {
    let (ep, e) = (epoll(), eventfd(1));
    add(&ep, 5, &e, IN | EDGE);
    assert_eq!(of(&ep).collect(1, |_, _, _| Err(Errno::EFAULT)), Err(Errno::EFAULT));
    assert_eq!(wait(&ep), [(5, IN)]);
}

#[test]
fn a_dropped_instance_leaves_its_files_alone() {
    let (ep, e) = (epoll(), eventfd(0));
    add(&ep, 5, &e, IN);
    drop(ep);
    assert!(e.ops().wait_queue().unwrap().is_empty());
    signal(&e);
}
