use proptest::prelude::*;
use sentry::kernel::seccomp::bpf::{Data, Program};
use sentry::kernel::seccomp::{ARCH, Action};
use serde_json::{Value, json};

use super::profile::{Condition, Op};
use super::*;

const ROOT: fn() -> Guest = || Guest::with_uid(0);
const USER: fn() -> Guest = || Guest::with_uid(1000);
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

fn compiled(profile: &Value, guest: Guest) -> Result<Compiled, String> {
    parse(profile.to_string().as_bytes(), &guest)
}

/// What the profile says about a call.
fn verdict(profile: &Value, guest: Guest, nr: i64, args: [u64; 6]) -> u32 {
    let spec = compiled(profile, guest).unwrap().spec;
    let program = Program::new(spec.program).unwrap();
    program.run(&Data { nr: nr as i32, arch: ARCH, instruction_pointer: 0, args })
}

fn errno(errno: u32) -> u32 {
    Action::Errno.value() | errno
}

const ALLOW: u32 = Action::Allow.value();

#[test]
fn the_first_that_holds_and_else_the_default() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            { "names": ["read", "statx"], "action": "SCMP_ACT_ALLOW", "args": [] },
            { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 3,
              "args": [{ "index": 1, "value": 9, "op": "SCMP_CMP_EQ" }] },
            { "names": ["kill"], "action": "SCMP_ACT_ALLOW",
              "args": [{ "index": 1, "value": 16, "op": "SCMP_CMP_LT" },
                       { "index": 0, "value": 0, "op": "SCMP_CMP_NE" }] },
            { "names": ["pause"], "action": "SCMP_ACT_TRAP" },
            { "names": ["pause"], "action": "SCMP_ACT_ALLOW" },
            { "names": ["alarm"], "action": "SCMP_ACT_LOG", "args": null },
            { "names": ["tkill"], "action": "SCMP_ACT_KILL_PROCESS" },
            { "names": ["tgkill"], "action": "SCMP_ACT_KILL" },
            { "names": ["gettid"], "action": "SCMP_ACT_TRACE" },
        ]
    });
    let say = |nr, args| verdict(&profile, USER(), nr, args);
    assert_eq!(say(libc::SYS_read, [0; 6]), ALLOW);
    assert_eq!(say(libc::SYS_write, [0; 6]), errno(EPERM));
    assert_eq!(say(libc::SYS_kill, [1, 9, 0, 0, 0, 0]), errno(3));
    assert_eq!(say(libc::SYS_kill, [0, 9, 0, 0, 0, 0]), errno(3));
    assert_eq!(say(libc::SYS_kill, [1, 10, 0, 0, 0, 0]), ALLOW);
    assert_eq!(say(libc::SYS_kill, [0, 10, 0, 0, 0, 0]), errno(EPERM));
    assert_eq!(say(libc::SYS_kill, [1, 16, 0, 0, 0, 0]), errno(EPERM));
    assert_eq!(say(libc::SYS_pause, [0; 6]), Action::Trap.value());
    assert_eq!(say(libc::SYS_alarm, [0; 6]), Action::Log.value());
    assert_eq!(say(libc::SYS_tkill, [0; 6]), Action::KillProcess.value());
    assert_eq!(say(libc::SYS_tgkill, [0; 6]), Action::KillThread.value());
    assert_eq!(say(libc::SYS_gettid, [0; 6]), Action::Trace.value() | EPERM);
}

#[test]
fn several_conditions_on_one_argument_are_alternatives() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{ "names": ["kill"], "action": "SCMP_ACT_ALLOW", "args": [
            { "index": 1, "value": 3, "op": "SCMP_CMP_EQ" },
            { "index": 1, "value": 5, "op": "SCMP_CMP_EQ" }] }]
    });
    let say = |signal| verdict(&profile, USER(), libc::SYS_kill, [0, signal, 0, 0, 0, 0]);
    assert_eq!([3, 4, 5].map(say), [ALLOW, errno(EPERM), ALLOW]);
}

#[test]
fn calls_that_are_newer_than_the_profile_are_not_there() {
    let with = |default: &str, errno: Option<u32>| {
        json!({
            "defaultAction": default,
            "defaultErrnoRet": errno,
            "syscalls": [
                { "names": ["read"], "action": "SCMP_ACT_ALLOW" },
                // Says nothing else than the default, but it is known.
                { "names": ["rseq"], "action": default, "errnoRet": errno },
            ]
        })
    };
    let strict = with("SCMP_ACT_ERRNO", Some(13));
    for guest in [ROOT(), USER()] {
        assert_eq!(verdict(&strict, guest, libc::SYS_rseq - 1, [0; 6]), errno(13));
        assert_eq!(verdict(&strict, guest, libc::SYS_rseq, [0; 6]), errno(13));
        assert_eq!(verdict(&strict, guest, libc::SYS_rseq + 1, [0; 6]), errno(ENOSYS));
        assert_eq!(verdict(&strict, guest, 70_000, [0; 6]), errno(ENOSYS));
    }
    let kill = with("SCMP_ACT_KILL_PROCESS", None);
    assert_eq!(verdict(&kill, USER(), 500, [0; 6]), errno(ENOSYS));
    for lenient in ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"] {
        let verdict = verdict(&with(lenient, None), USER(), 500, [0; 6]);
        assert_ne!(verdict, errno(ENOSYS), "{lenient}");
    }
}

#[test]
fn other_interfaces_are_denied() {
    let with = |architectures: Value| {
        json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": architectures,
            "syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ALLOW" }]
        })
    };
    let x32 = |profile: &Value| verdict(profile, USER(), 0x4000_0000, [0; 6]);
    assert_eq!(x32(&with(Value::Null)), Action::KillThread.value());
    assert_eq!(
        x32(&with(json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]))),
        Action::KillThread.value()
    );
    let both = with(json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]));
    assert_eq!(x32(&both), errno(ENOSYS));
    assert_eq!(verdict(&both, USER(), -1, [0; 6]), errno(EPERM));
    let program = Program::new(compiled(&both, USER()).unwrap().spec.program).unwrap();
    let compat = Data { arch: 0x4000_0003, ..Data::default() };
    assert_eq!(program.run(&compat), Action::KillThread.value());
    assert!(compiled(&with(json!(["SCMP_ARCH_Z80"])), USER()).unwrap_err().contains("Z80"));
}

#[test]
fn docker_s_conditions_are_resolved() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [
            { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X32"] },
            { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null },
        ],
        "syscalls": [
            { "names": ["mount"], "action": "SCMP_ACT_ALLOW",
              "includes": { "caps": ["CAP_SYS_ADMIN"] } },
            { "names": ["unshare"], "action": "SCMP_ACT_ALLOW",
              "excludes": { "caps": ["CAP_SYS_ADMIN"], "arches": ["s390x"] } },
            { "names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "4.8" } },
            { "names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "99.1" } },
            { "names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["amd64"] } },
            { "names": ["iopl"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["s390x"] } },
            { "name": "acct", "action": "SCMP_ACT_ALLOW", "excludes": {} },
        ]
    });
    let allowed = |guest| {
        let calls = [
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_ptrace,
            libc::SYS_bpf,
            libc::SYS_arch_prctl,
            libc::SYS_iopl,
            libc::SYS_acct,
        ];
        calls.map(|nr| verdict(&profile, guest, nr, [0; 6]) == ALLOW)
    };
    assert_eq!(allowed(ROOT()), [true, false, true, false, true, false, true]);
    assert_eq!(allowed(USER()), [false, true, true, false, true, false, true]);
    assert_eq!(verdict(&profile, USER(), 0x4000_0000, [0; 6]), errno(ENOSYS));
}

#[test]
fn names_of_other_machines_are_no_mistake() {
    let names = [
        "nonsense",
        "read",
        "chown32",
        "fstatat64",
        "clock_gettime64",
        "futex_time64",
        "_llseek",
        "fadvise64_64",
        "arm_fadvise64_64",
        "s390_pci_mmio_read",
        "waitpid",
        "reed64",
        "nonsense",
    ];
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }]
    });
    assert_eq!(compiled(&profile, USER()).unwrap().unknown, ["nonsense", "reed64"]);
}

#[test]
fn mistakes_are_named() {
    let rule = |rule: Value| json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] });
    let wrong = [
        (json!({}), "defaultAction"),
        (json!({ "defaultAction": "SCMP_ACT_WHATEVER" }), "SCMP_ACT_WHATEVER"),
        (
            json!({ "defaultAction": "SCMP_ACT_NOTIFY" }),
            "defaultAction: SCMP_ACT_NOTIFY is not possible: a program outside (listenerPath)",
        ),
        (json!({ "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1 }), "defaultErrnoRet"),
        (json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096 }), "defaultErrnoRet"),
        (json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": ["FAST"] }), "FAST"),
        (rule(json!({ "names": [], "action": "SCMP_ACT_TRAP" })), "syscalls[0].names"),
        (rule(json!({ "names": ["read"] })), "action"),
        (
            rule(json!({ "names": ["read"], "action": "SCMP_ACT_TRAP", "errnoRet": 1 })),
            "syscalls[0].errnoRet",
        ),
        (
            rule(json!({ "names": ["read"], "action": "SCMP_ACT_TRAP",
                         "args": [{ "index": 6, "value": 1, "op": "SCMP_CMP_EQ" }] })),
            "syscalls[0].args[0].index",
        ),
        (
            rule(json!({ "names": ["read"], "action": "SCMP_ACT_TRAP",
                         "args": [{ "index": 0, "value": -1, "op": "SCMP_CMP_EQ" }] })),
            "-1",
        ),
        (
            rule(json!({ "names": ["read"], "action": "SCMP_ACT_NOTIFY" })),
            "syscalls[0].action: SCMP_ACT_NOTIFY is not possible: a program outside (listenerPath)",
        ),
        (
            rule(json!({ "names": ["read"], "action": "SCMP_ACT_TRAP",
                         "includes": { "minKernel": "new" } })),
            "syscalls[0].includes.minKernel",
        ),
        (
            rule(json!({ "names": ["read"], "action": "SCMP_ACT_TRAP",
                         "includes": { "moon": "full" } })),
            "moon",
        ),
    ];
    for (profile, name) in wrong {
        let error = compiled(&profile, USER()).unwrap_err();
        assert!(error.contains(name) && !error.contains('\n'), "{profile}: {error}");
    }
    let many = vec![json!({ "index": 0, "value": 1, "op": "SCMP_CMP_EQ" }); 2000];
    let long = rule(json!({ "names": ["read"], "action": "SCMP_ACT_TRAP", "args": many }));
    assert!(compiled(&long, USER()).unwrap_err().contains("instructions"));
}

fn holds(condition: &Condition, args: [u64; 6]) -> bool {
    let arg = args[condition.index as usize];
    let value = condition.value;
    match condition.op {
        Op::Ne => arg != value,
        Op::Lt => arg < value,
        Op::Le => arg <= value,
        Op::Eq => arg == value,
        Op::Ge => arg >= value,
        Op::Gt => arg > value,
        Op::MaskedEq => arg & value == condition.value_two & value,
    }
}

/// Numbers that are close to each other in both halves.
fn near() -> impl Strategy<Value = u64> {
    let half = || prop_oneof![Just(0u32), Just(1), Just(2), Just(u32::MAX), Just(1 << 31)];
    (half(), half()).prop_map(|(high, low)| u64::from(high) << 32 | u64::from(low))
}

const OPS: [(&str, Op); 7] = [
    ("NE", Op::Ne),
    ("LT", Op::Lt),
    ("LE", Op::Le),
    ("EQ", Op::Eq),
    ("GE", Op::Ge),
    ("GT", Op::Gt),
    ("MASKED_EQ", Op::MaskedEq),
];

proptest! {
    /// A compiled rule means what the rule says, for all operators and both halves.
    #[test]
    fn conditions_are_compiled_right(
        rules in prop::collection::vec(
            (prop::collection::btree_map(0u32..6, (0..OPS.len(), near(), near()), 1..6), 1u32..100),
            1..5,
        ),
        args in prop::array::uniform6(near()),
    ) {
        let mut expected = None;
        let mut syscalls = Vec::new();
        for (conditions, errno) in &rules {
            let conditions: Vec<(Condition, &str)> = conditions
                .iter()
                .map(|(&index, &(op, value, value_two))| {
                    (Condition { index, op: OPS[op].1, value, value_two }, OPS[op].0)
                })
                .collect();
            if expected.is_none() && conditions.iter().all(|(c, _)| holds(c, args)) {
                expected = Some(*errno);
            }
            let list: Vec<Value> = conditions
                .iter()
                .map(|(c, op)| json!({ "index": c.index, "op": format!("SCMP_CMP_{op}"),
                    "value": c.value, "valueTwo": c.value_two }))
                .collect();
            syscalls.push(json!({ "names": ["mmap"], "action": "SCMP_ACT_ERRNO",
                "errnoRet": errno, "args": list }));
        }
        let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls });
        let expected = expected.map_or(ALLOW, errno);
        prop_assert_eq!(verdict(&profile, USER(), libc::SYS_mmap, args), expected);
    }

    /// Whatever is given, it is refused or becomes a program that passes the check.
    #[test]
    fn garbage_is_refused(
        action in "SCMP_ACT_(ERRNO|ALLOW|KILL|NOTIFY|X)",
        name in "(read|write|clone3|[a-z]{1,9})",
        index in 0u32..8,
        cut in 0usize..400,
    ) {
        let profile = json!({ "defaultAction": action, "syscalls": [{ "names": [name],
            "action": action, "args": [{ "index": index, "value": u64::MAX, "op": "SCMP_CMP_LE" }] }] });
        let mut text = profile.to_string().into_bytes();
        if cut < text.len() {
            text.truncate(cut);
        }
        match parse(&text, &USER()) {
            Ok(compiled) => prop_assert!(Program::new(compiled.spec.program).is_ok()),
            Err(error) => prop_assert!(!error.contains('\n')),
        }
    }
}
