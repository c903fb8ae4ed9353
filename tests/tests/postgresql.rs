//! PostgreSQL inside, as its users run it: initdb, a server with its default settings, clients over a
//! unix socket, a crash, a restart.

use std::path::PathBuf;

use rsentry_tests::{Sandboxes, finish, text};

/// The folder of the newest server that is installed. On a developer's machine there may be none, which
/// is said; in CI that is a failure.
fn server() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|v| v.path().join("bin")).collect();
    found.retain(|bin| bin.join("initdb").is_file());
    found.sort();
    if found.is_empty() {
        assert!(std::env::var_os("CI").is_none_or(|v| v != "true"), "PostgreSQL is not installed");
        eprintln!("skipped: PostgreSQL is not installed");
    }
    found.pop()
}

const SCRIPT: &str = r#"
    set -eu
    export PGHOST=/tmp/pg PGDATABASE=postgres
    mkdir $PGHOST
    initdb -A trust -D $PGHOST/data > log 2>&1 || { cat log; exit 1; }
    start() {
        pg_ctl -D $PGHOST/data -o "-k $PGHOST -c listen_addresses=''" -l log -w start > out ||
            { cat out log; exit 1; }
    }
    start
    # The server's segment, in use.
    ipcs -m | awk '$4 == 600 && $6 > 1 { segments++ } END { print segments, "segment" }'

    psql -qc 'create table numbers (who int, n int)'
    for who in 1 2 3 4; do
        psql -qc "insert into numbers select $who, n from generate_series(1, 5000) n" &
        clients="${clients:-} $!"
    done
    for client in $clients; do wait $client; done
    psql -Atc 'select who, count(*), sum(n) from numbers group by who order by who'
    # Parallel workers share memory that they map by name.
    psql -At <<< "set force_parallel_mode = on; set max_parallel_workers_per_gather = 2;
        set parallel_setup_cost = 0; select count(*) from numbers where n % 7 = 0"

    pgbench -qi -s 1 > out 2>&1 || { cat out; exit 1; }
    pgbench -n -c 4 -j 2 -t 50 2> /dev/null | grep 'actually processed'
    psql -Atc 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from
        pgbench_history), (select count(*) from pgbench_history)'

    # A crash leaves a segment that the next server finds and removes.
    psql -qc 'insert into numbers values (5, 5)'
    kill -9 $(head -1 $PGHOST/data/postmaster.pid)
    while pgrep postgres > /dev/null; do sleep 0.05; done
    start
    psql -Atc 'select count(*) from numbers'
    pg_ctl -D $PGHOST/data -m fast stop > /dev/null
    grep -c 'not properly shut down' log
    ipcs -m | awk '$4 == 600 { segments++ } END { print segments + 0, "segments" }'
"#;

const EXPECTED: &str = "\
1 segment
1|5000|12502500
2|5000|12502500
3|5000|12502500
4|5000|12502500
SET
SET
SET
2856
number of transactions actually processed: 200/200
t|200
20001
1
0 segments
";

fn postgresql_serves_crashes_and_recovers(platform: &str) {
    let Some(bin) = server() else { return };
    let sandboxes = Sandboxes::on(platform);
    let path = format!("PATH={}:/usr/bin:/bin", bin.display());
    let mut arguments = vec!["run", "--env", &path, "--env", "LC_ALL=C.UTF-8", "-w", "/tmp"];
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } == 0 {
        // It refuses to run as root.
        arguments.extend(["--user", "65534:65534"]);
    }
    arguments.extend(["--", "bash", "-c", SCRIPT]);
    let output = finish(sandboxes.command(&arguments));
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && out == EXPECTED, "{}\n{out}\n{err}", output.status);
    sandboxes.assert_nothing_left();
}

rsentry_tests::on_every_platform!(postgresql_serves_crashes_and_recovers);
