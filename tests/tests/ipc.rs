//! System V IPC and POSIX message queues: programs that use them, and guests that take all they can get.

use rsentry_tests::{Sandboxes, finish, text};

/// Runs a script of an interpreter in a sandbox; it must end well, and nothing may be left.
#[track_caller]
fn output(platform: &str, options: &[&str], command: &[&str]) -> String {
    let sandboxes = Sandboxes::on(platform);
    let arguments = [&["run"], options, &["--"], command].concat();
    let output = finish(sandboxes.command(&arguments));
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    sandboxes.assert_nothing_left();
    out
}

/// Makes objects of each kind until there are no more, and gives them back.
const GREEDY: &str = r#"
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
CREATE, NOWAIT, UNDO, ENOUGH = 0o1600, 0o4000, 0x1000, 100

def all_of(make, enough=ENOUGH):
    made = []
    while (got := make(len(made))) >= 0:
        made.append(got)
    assert len(made) >= enough, len(made)
    return made, errno.errorcode[ctypes.get_errno()]

arrays, why = all_of(lambda n: libc.semget(0, 32000, CREATE))
print('semget', why)
one = (ctypes.c_short * 3)(5, 1, UNDO)
assert libc.semop(arrays[0], one, 1) == 0 or ctypes.get_errno() == errno.ENOMEM
for array in arrays:
    assert libc.semctl(array, 0, 0) == 0

message = ctypes.create_string_buffer(8 + 8192)
message[0] = 1
queues = []
def send(n):
    if not queues or libc.msgsnd(queues[-1], message, 8192, NOWAIT) < 0:
        if queues and ctypes.get_errno() != errno.EAGAIN:
            return -1
        queues.append(libc.msgget(0, CREATE))
    return min(queues[-1], 0)
print('msgsnd', all_of(send)[1])
for queue in queues:
    assert libc.msgctl(queue, 0, 0) == 0

segments, why = all_of(lambda n: libc.shmget(0, 4096, CREATE))
print('shmget', len(segments), why)
views, why = all_of(lambda n: (libc.shmat(segments[0], None, 0) + 1) % 2**64 - 1)
print('shmat', why)
for view in views:
    assert libc.shmdt(ctypes.c_void_p(view)) == 0
for segment in segments:
    assert libc.shmctl(segment, 0, 0) == 0
print('huge', libc.shmget(0, ctypes.c_size_t(1 << 40), CREATE), errno.errorcode[ctypes.get_errno()])

print('mq_open', all_of(lambda n: libc.mq_open(b'/%d' % n, 0o102, 0o600, None), 5)[1])
# All is given back.
for table in 'shm', 'sem', 'msg':
    assert len(open('/proc/sysvipc/' + table).readlines()) == 1
"#;

fn what_guests_make_is_bounded(platform: &str) {
    let options = ["--memory", "64M", "--user", "1000:1000"];
    let out = output(platform, &options, &["python3", "-c", GREEDY]);
    let expected = "semget ENOMEM\nmsgsnd ENOMEM\nshmget 4096 ENOSPC\nshmat ENOMEM\nhuge -1 ENOMEM\n\
                    mq_open EMFILE\n";
    assert_eq!(out, expected);
}

const SHARED: &str = r#"
    use strict;
    use IPC::SysV qw(:all);
    my $shm = shmget(IPC_PRIVATE, 100, S_IRUSR | S_IWUSR | IPC_CREAT) // die;
    my $sem = semget(IPC_PRIVATE, 2, S_IRUSR | S_IWUSR | IPC_CREAT) // die;
    my $msg = msgget(IPC_PRIVATE, S_IRUSR | S_IWUSR | IPC_CREAT) // die;
    semop($sem, pack 's!3', 0, 1, 0) or die;
    shmwrite($shm, '0', 0, 10) or die;
    for my $child (1 .. 4) {
        fork and next;
        for (1 .. 100) {
            semop($sem, pack 's!3', 0, -1, SEM_UNDO) or die;
            shmread($shm, my $n, 0, 10) or die;
            shmwrite($shm, $n + 1, 0, 10) or die;
            semop($sem, pack 's!3', 0, 1, SEM_UNDO) or die;
        }
        msgsnd($msg, pack('l! a*', $child, "child $child"), 0) or die;
        exit;
    }
    for my $child (reverse 1 .. 4) {
        msgrcv($msg, my $got, 100, $child, 0) or die;
        print unpack('x[l!] a*', $got), "\n";
    }
    1 while wait != -1;
    shmread($shm, my $n, 0, 10) or die;
    print $n + 0, "\n";
    shmctl($shm, IPC_RMID, 0) && semctl($sem, 0, IPC_RMID, 0) && msgctl($msg, IPC_RMID, 0) or die;
"#;

fn perl_shares_by_sysv(platform: &str) {
    let out = output(platform, &[], &["perl", "-e", SHARED]);
    assert_eq!(out, "child 4\nchild 3\nchild 2\nchild 1\n400\n");
}

fn queues_are_files_where_mqueue_is_mounted(platform: &str) {
    let script = r#"
        set -e
        mkdir /tmp/mq
        mount -t mqueue none /tmp/mq
        python3 -c 'import ctypes; libc = ctypes.CDLL(None)
fd = libc.mq_open(b"/made", 0o102, 0o640, None)
assert libc.mq_send(fd, b"text", 4, 1) == 0'
        cd /tmp/mq
        stat -c '%n %A %s' made
        cat made
        touch other
        ls
        rm made
        python3 -c 'import ctypes; libc = ctypes.CDLL(None)
print(libc.mq_open(b"/made", 2), libc.mq_open(b"/other", 2) > 2)'
        mkdir x 2> /dev/null || echo refused
        ls /dev/mqueue
    "#;
    let out = output(platform, &["--user", "0:0"], &["bash", "-c", script]);
    let expected = "made -rw-r----- 80\nQSIZE:4          NOTIFY:0     SIGNO:0     NOTIFY_PID:0     \n\
                    made\nother\n-1 True\nrefused\nother\n";
    assert_eq!(out, expected);
}

fn settings_can_be_changed(platform: &str) {
    let script = r#"
        set -e
        cd /proc/sys/kernel
        echo 100 > shmmni; cat shmmni
        echo '10 20 30 40' > sem; cat sem
        echo 7 > sem; cat sem
        echo 2 2> /dev/null > shm_rmid_forced || echo refused
        echo 40000 2> /dev/null > msgmni || echo refused
        # What nobody uses goes with who made it.
        ipcmk -M 5000 > /dev/null; ipcs -m | grep -c 5000
        echo 1 > shm_rmid_forced; ipcs -m | grep -c 5000 || true
        ipcmk -M 5000 > /dev/null; ipcs -m | grep -c 5000 || true
        echo 3 > /proc/sys/fs/mqueue/msg_max; cat /proc/sys/fs/mqueue/msg_max
        echo 0 2> /dev/null > /proc/sys/fs/mqueue/msg_max || echo refused
    "#;
    let out = output(platform, &["--user", "0:0"], &["bash", "-c", script]);
    let expected = "100\n10\t20\t30\t40\n7\t20\t30\t40\nrefused\nrefused\n1\n0\n0\n3\nrefused\n";
    assert_eq!(out, expected);
}

rsentry_tests::on_every_platform!(
    what_guests_make_is_bounded,
    perl_shares_by_sysv,
    queues_are_files_where_mqueue_is_mounted,
    settings_can_be_changed,
);
