//! Real programs give the same output inside as natively: standard output, standard error and exit
//! status. What they write stays inside.
//!
//! Each case is a bash script, run in an empty directory: first in the sandbox, which must leave the
//! directory empty, then natively at the same path.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use rsentry_tests::{Sandboxes, finish, text};

/// The same environment on both sides, but for what rsentry sets itself.
fn environment(command: &mut Command, work: &Path) {
    command.env_clear().env("LANG", "C.UTF-8").env("TZ", "UTC");
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("HOME", work);
}

fn report(output: &Output) -> String {
    let status = output.status;
    format!("{status}\n--- stdout\n{}--- stderr\n{}", text(&output.stdout), text(&output.stderr))
}

/// Whether all these programs are there. On a developer's machine one may be missing, which is said;
/// in CI that is a failure.
#[track_caller]
fn all_here(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |p: &&str| std::env::split_paths(&path).any(|d| d.join(p).is_file());
    let Some(missing) = programs.iter().find(|p| !there(p)) else { return true };
    assert!(std::env::var_os("CI").is_none_or(|v| v != "true"), "{missing} is not installed");
    eprintln!("skipped: {missing} is not installed");
    false
}

/// Runs `script`, which needs these programs, on both sides and compares.
#[track_caller]
fn same(platform: &str, programs: &[&str], script: &str) {
    if !all_here(programs) {
        return;
    }
    let sandboxes = Sandboxes::on(platform);
    let work = sandboxes.work().canonicalize().expect("the working directory is there");
    let home = format!("HOME={}", work.display());

    let mut inside = sandboxes.command(&["run", "--env", &home, "--", "bash", "-c", script]);
    environment(&mut inside, &work);
    let inside = finish(inside);
    let left: Vec<_> = std::fs::read_dir(&work).expect("a directory").flatten().collect();
    assert!(left.is_empty(), "the sandbox wrote to the host: {left:?}");

    let mut native = Command::new("bash");
    native.args(["-c", script]).current_dir(&work).stdin(Stdio::null());
    native.stdout(Stdio::piped()).stderr(Stdio::piped());
    environment(&mut native, &work);
    let native = finish(native);
    assert!(native.status.success(), "the script fails natively: {}", report(&native));
    let (inside, native) = (report(&inside), report(&native));
    assert!(inside == native, "=== inside: {inside}\n=== natively: {native}");
    sandboxes.assert_nothing_left();
}

macro_rules! same {
    ($($name:ident [$($program:literal),*]: $script:expr;)*) => {
        $(fn $name(platform: &str) {
            same(platform, &["bash", $($program),*], $script);
        })*

        rsentry_tests::on_every_platform!($($name),*);
    };
}

same! {
    bash_pipes_and_redirections []: r#"
        set -o pipefail
        printf '%s\n' c a b | sort | tee sorted | tac | tr a-z A-Z
        cat < sorted > copy 2>&1; cmp sorted copy && echo same
        { echo out; echo err >&2; } 2> errors > outputs; cat outputs errors
        echo more >> outputs; wc -l < outputs
        yes | head -n 100000 | wc -c
        true | false | true; echo "${PIPESTATUS[@]} $?"
        exec 5<> both; echo through five >&5; exec 5>&-; cat both
    "#;
    bash_here_documents_and_substitutions []: r#"
        name=world
        cat <<END
        hello $name $(echo nested $(( 6 * 7 )))
END
        cat <<'END'
        hello $name
END
        cat <<< "a here string"
        diff <(seq 1 5) <(seq 2 6); echo "diff: $?"
        tee >(tr a-z A-Z > upper) <<< lower > /dev/null; sleep 0.3; cat upper
        paste <(seq 3) <(seq 4 6) <(seq 7 9)
    "#;
    bash_traps_and_signals []: r#"
        trap 'echo usr1' USR1
        trap 'echo leaving with $?' EXIT
        kill -USR1 $$; echo after
        ( trap 'echo child term; exit 5' TERM; while :; do sleep 0.05; done ) &
        sleep 0.3; kill $!; wait $!; echo "wait: $?"
        sleep 100 & kill -9 $!; wait $! 2>/dev/null; echo "killed: $?"
        { bash -c 'kill -SEGV $$'; } 2>/dev/null; echo "segv: $?"
        trap '' INT; kill -INT $$; echo survived
        bash -c 'trap "echo int; exit 3" INT; kill -INT $$'; echo "$?"
    "#;
    bash_job_control []: r#"
        exec 2> /dev/null; set -m
        sleep 100 & sleep 200 &
        jobs | sed 's/ \+/ /g'
        kill -STOP %1; sleep 0.3; jobs %1 | sed 's/ \+/ /g'
        kill -CONT %1; sleep 0.3; jobs -r | wc -l
        kill %1 %2; wait; echo done
        (exit 4) & wait %%; echo $?
    "#;
    bash_language []: r#"
        declare -A map=([one]=1 [two]=2); for k in one two; do echo $k ${map[$k]}; done
        f() { local x=$1; (( x <= 1 )) && { echo 1; return; }; echo $(( x * $(f $((x - 1))) )); }; f 10
        for i in {1..3}; do for j in a b; do printf '%s%s ' $i $j; done; done; echo
        case hello in h*o) echo match;; esac; [[ abc =~ ^a(.)c$ ]] && echo ${BASH_REMATCH[1]}
        s=abcdef; echo ${s:2:3} ${s/cd/X} ${#s} ${s^^}
        mapfile -t lines < <(seq 5); echo ${#lines[@]} ${lines[-1]}
        coproc cat; echo to the coprocess >&${COPROC[1]}; read -r line <&${COPROC[0]}; echo "$line"
        time_out=$(( $(date +%s) > 1600000000 )); echo $time_out; umask; ulimit -c
        echo $BASHPID | grep -c . ; cd /; pwd; cd - > /dev/null; test -d . && echo here
    "#;
    coreutils_over_ten_thousand_files ["find", "diff"]: r#"
        mkdir tree && cd tree
        for d in {0..99}; do mkdir $d; for f in {0..99}; do echo "$d $f" > $d/$f; done; done
        find . -type f | wc -l; find . -type f -name '*7' | sort | head -3
        cat */* | sort | md5sum; ls -R | md5sum; du --apparent-size -b 0/0
        cp -r . ../copy; diff -r . ../copy && echo equal
        mv 0 zero; ln zero/0 hard; ln -s zero/1 soft; cat hard soft; readlink soft; stat -c '%h %s %F' hard soft
        chmod 640 hard; stat -c %a zero/0; touch -d '2001-02-03 04:05:06' hard; stat -c %Y hard
        rm -r 1*; ls | wc -l; find . -newer hard -name 5 | sort | head -3
        cd ..; rm -rf tree copy; ls
    "#;
    coreutils_small_things []: r#"
        seq 20 > n; head -3 n; tail -2 n; sed -n 5,6p n; split -l 8 n part; ls part*; wc part*
        sort -rn n | uniq -c | head -2; cut -c1 n | sort | uniq -c; comm <(seq 5) <(seq 3 7) | tr '\t' .
        truncate -s 1M big; stat -c '%s' big; dd if=/dev/zero of=zeros bs=4096 count=8 2>/dev/null; cmp -n 32768 big zeros && echo zero
        mkfifo p; (echo through a fifo > p &) ; cat p; mktemp -d | cut -d/ -f2; realpath n | xargs basename
        expr 3 + 4; factor 360; base64 <<< hello; sha256sum n; od -c <<< ab; nproc > /dev/null; env | grep -c PATH
        install -m 751 n installed; stat -c %a installed; timeout 0.2 sleep 5; echo $?; tee a b < n | wc -l; shuf -i 1-5 | sort | paste -sd,
        date -d @0 +%F; id -u; test -w /etc/passwd; ls -l /etc/passwd | cut -c1-10; ls -d /usr/bin; cat /nonexistent; true
    "#;
    archives ["tar", "gzip", "xz", "find", "grep"]: r#"
        mkdir -p d/e; seq 10000 > d/numbers; head -c 100000 /dev/zero > d/e/zeros; ln -s numbers d/link; chmod 600 d/numbers
        tar --sort=name -cf a.tar d; tar tf a.tar; tar czf a.tgz d; tar cJf a.txz d; mkdir x y
        tar xf a.tgz -C x; tar xf a.txz -C y; diff -r x/d y/d && diff -r d x/d && echo equal; stat -c %a x/d/numbers
        gzip -k d/numbers; gzip -l d/numbers.gz | tail -1 | tr -s ' '; gunzip -c d/numbers.gz | cmp - d/numbers && echo unzipped
        xz -k d/numbers; xz -dc d/numbers.xz | md5sum
        grep -r 999 d --include=numbers | wc -l; find d -type f -size +50k | sort; find d -name 'num*' -exec basename {} \; | sort
    "#;
    perl ["perl"]: r#"
        perl -e 'my %h = map { $_ => $_ ** 2 } 1..5; print join(",", map { "$_=$h{$_}" } sort keys %h), "\n"'
        perl -ne 'print if /root/' /etc/passwd
        perl -e 'pipe(R, W); if (my $p = fork) { close W; print <R>; waitpid $p, 0; print $? >> 8, "\n" } else { close R; print W "from the child\n"; close W; exit 7 }'
        perl -e '$SIG{ALRM} = sub { print "alarm\n"; exit }; alarm 1; sleep 10'
        seq 5 | perl -lpe '$_ *= 2'; perl -MPOSIX -e 'print((POSIX::uname())[0], "\n")'
    "#;
    python_threads_and_subprocess ["python3"]: r#"
        python3 - <<'END'
import os, queue, signal, subprocess, sys, tempfile, threading, time
q, total = queue.Queue(), []
def work():
    while (n := q.get()) is not None: total.append(n * n)
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]
for n in range(1000): q.put(n)
for _ in threads: q.put(None)
[t.join() for t in threads]
print(sum(total), len(total))
print(subprocess.run(["sh", "-c", "cat; echo err >&2; exit 3"], input=b"in\n", capture_output=True))
p = subprocess.Popen(["sleep", "100"]); p.send_signal(signal.SIGTERM); print(p.wait())
with tempfile.TemporaryDirectory() as d:
    with open(os.path.join(d, "f"), "w") as f: f.write("x" * 100000)
    print(os.path.getsize(os.path.join(d, "f")), os.listdir(d))
print(os.path.exists(d))
try: subprocess.run(["sleep", "10"], timeout=0.2)
except subprocess.TimeoutExpired as e: print("timed out")
signal.signal(signal.SIGUSR1, lambda s, f: print("signal", s)); os.kill(os.getpid(), signal.SIGUSR1)
lock = threading.Condition(); print(lock.acquire(timeout=1)); print(lock.wait(0.1))
print(os.cpu_count() >= 1, sys.platform, os.getcwd() == os.environ["HOME"])
END
    "#;
    python_asyncio_and_sqlite ["python3"]: r#"
        python3 - <<'END'
import asyncio, sqlite3, multiprocessing, mmap, os, select, socket
async def main():
    async def tick(n): await asyncio.sleep(0.01 * n); return n
    print(await asyncio.gather(*[tick(n) for n in range(10)]))
    p = await asyncio.create_subprocess_exec("tr", "a-z", "A-Z", stdin=-1, stdout=-1)
    print(await p.communicate(b"shout"))
    try: await asyncio.wait_for(asyncio.sleep(10), 0.1)
    except asyncio.TimeoutError: print("timed out")
asyncio.run(main())
db = sqlite3.connect("test.db")
db.execute("create table t (a integer primary key, b text)")
with db: db.executemany("insert into t values (?, ?)", [(n, str(n)) for n in range(1000)])
print(db.execute("select sum(a), count(b) from t where b like '%9'").fetchone())
db.execute("pragma journal_mode=wal"); db.execute("delete from t where a % 2"); db.commit(); db.execute("vacuum")
print(db.execute("select count(*) from t").fetchone(), db.execute("pragma integrity_check").fetchone()); db.close()
with multiprocessing.Pool(3) as pool: print(pool.map(abs, range(-5, 5)))
m = mmap.mmap(-1, 8192); m[:5] = b"hello"; pid = os.fork()
if pid == 0: m[:5] = b"child"; os._exit(0)
os.waitpid(pid, 0); print(m[:5])
a, b = socket.socketpair(); a.send(b"x"); print(select.select([b], [], [], 1)[0] == [b], b.recv(9))
END
    "#;
    gcc_compiles_links_and_runs ["gcc"]: r#"
        cat > hello.c <<'END'
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
static void *run(void *p) { *(int *)p *= 2; return p; }
int main(int argc, char **argv) {
    pthread_t t[4]; int v[4] = {1, 2, 3, 4};
    for (int i = 0; i < 4; i++) pthread_create(&t[i], 0, run, &v[i]);
    for (int i = 0; i < 4; i++) pthread_join(t[i], 0);
    printf("%d %d %d %d %.3f %s\n", v[0], v[1], v[2], v[3], sqrt(argc + 1.0), argv[1]);
    return 17;
}
END
        gcc -O1 -Wall -o hello hello.c -lm -pthread && ./hello argument; echo $?
        gcc -static -O2 -o static hello.c -lm -pthread && ./static again; echo $?
        gcc -E hello.c | tail -1; echo 'int main( { }' > bad.c; gcc -c bad.c; echo $?
        gcc -shared -fPIC -o libx.so -x c - <<< 'int x(void) { return 5; }'; nm -D libx.so | grep ' x'
    "#;
    make_in_parallel ["make", "gcc"]: r#"
        for i in {1..8}; do echo "int f$i(void) { return $i; }" > f$i.c; done
        { for i in {1..8}; do echo "int f$i(void);"; done; echo '#include <stdio.h>'
          echo 'int main(void) { printf("%d\n", f1()+f2()+f3()+f4()+f5()+f6()+f7()+f8()); }'; } > main.c
        printf 'OBJ := $(patsubst %%.c,%%.o,$(wildcard *.c))\nprog: $(OBJ)\n\t@gcc -o $@ $^\n%%.o: %%.c\n\t@gcc -c -o $@ $<\n' > Makefile
        make -j4 && ./prog; touch f3.c; make -j4 -n | wc -l; make -j4 && make; ls *.o | wc -l
    "#;
    git_locally ["git"]: r#"
        export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z'
        git config --global user.name Someone; git config --global user.email someone@example.invalid
        git config --global init.defaultBranch main; git config --global advice.detachedHead false
        git init -q repo; cd repo; seq 100 > numbers; mkdir d; echo x > d/x; git add .; git commit -q -m first
        sed -i s/50/fifty/ numbers; git diff --stat; git commit -qam second; git log --format='%h %s'
        git checkout -qb side HEAD~; echo y > d/y; git add d/y; git commit -qm side; git checkout -q main; git merge -q -m merged side; git log --oneline | wc -l
        cd ..; git clone -q repo clone; cd clone; git log --format=%H | head -1; git status --short | wc -l; ls -A
        git gc -q; git fsck 2>&1 | tail -1; git blame -s numbers | sed -n 50p; git stash list; git rev-parse HEAD
    "#;
    processes_see_each_other_in_proc ["ps"]: r#"
        sleep 100 & pid=$!; sleep 0.2
        tr '\0' ' ' < /proc/$pid/cmdline; echo; grep -E '^(Name|Threads|Groups)' /proc/$pid/status; readlink /proc/$pid/cwd | grep -c .
        ps -o comm= -p $pid; kill $pid; wait $pid 2>/dev/null; test -d /proc/$pid; echo "gone: $?"
        readlink /proc/self/exe; ls /proc/self/fd | head -2; cat /proc/self/comm; cut -d' ' -f2 /proc/self/stat
        head -c 5 /dev/zero | od -An -c; echo x > /dev/null; head -c 16 /dev/urandom | wc -c; stat -c '%t %T %F' /dev/null /dev/zero
        grep -c . /proc/meminfo > /dev/null && grep -c processor /proc/cpuinfo > /dev/null && echo readable
    "#;
}
