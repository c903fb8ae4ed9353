//! Capabilities of the first program, by name, in docker's terms.

use sentry::boot::spec::CapabilitySpec;
use sentry::kernel::Caps;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Which capabilities the first program has. Without any of this, user 0 has all of them and any other
/// user none; all of them are the Sentry's, and give nothing on the host.
///
/// Names are Linux's, in either case, with or without `CAP_`, or `ALL`. Those that nobody knows are
/// skipped, with a warning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// What it has besides. For a user other than 0 they are ambient: programs that it starts keep them.
    pub add: Vec<String>,
    /// What it has not, and can never get.
    pub drop: Vec<String>,
    /// Which of those that it has are ambient and inheritable.
    pub ambient: Vec<String>,
}

/// What names mean.
struct Named {
    caps: Caps,
    all: bool,
    unknown: Vec<String>,
}

impl Named {
    fn of(names: &[String]) -> Named {
        let mut named = Named { caps: Caps::empty(), all: false, unknown: Vec::new() };
        for name in names {
            let upper = name.to_ascii_uppercase();
            let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
            match Caps::from_name(short) {
                Some(cap) => named.caps |= cap,
                None if short == "ALL" => named.all = true,
                None => named.unknown.push(name.clone()),
            }
        }
        named
    }

    fn or_all(&self) -> Caps {
        if self.all { Caps::all() } else { self.caps }
    }
}

/// `CAP_KILL, CAP_SETUID`
fn list(caps: Caps) -> String {
    let names: Vec<String> = caps.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    names.join(", ")
}

impl Capabilities {
    /// Names that nobody knows, of the option that has them.
    pub(crate) fn unknown(&self) -> Vec<(&'static str, String)> {
        let options = [
            ("--cap-add", &self.add),
            ("--cap-drop", &self.drop),
            ("--cap-ambient", &self.ambient),
        ];
        let unknown = |(option, names): (&'static str, &Vec<String>)| {
            let names = Named::of(names).unknown;
            names.into_iter().map(move |name| (option, name))
        };
        options.into_iter().flat_map(unknown).collect()
    }

    /// What no user can be given.
    ///
    /// # Errors
    /// Names the option.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let (add, drop) = (Named::of(&self.add), Named::of(&self.drop));
        if add.all && drop.all {
            return Err(Error::option("--cap-drop", "ALL is in --cap-add as well"));
        }
        let both = add.caps & drop.caps;
        if !both.is_empty() {
            let problem = format!("{} is in --cap-add as well", list(both));
            return Err(Error::option("--cap-drop", problem));
        }
        let ambient = Named::of(&self.ambient).or_all();
        let never = ambient & drop.or_all() & !add.or_all();
        if !never.is_empty() {
            let problem = format!("{} cannot be ambient: --cap-drop takes it away", list(never));
            return Err(Error::option("--cap-ambient", problem));
        }
        Ok(())
    }

    /// The five sets of a first program of this user.
    ///
    /// # Errors
    /// When they are impossible; names the option.
    pub(crate) fn of_user(&self, uid: u32) -> Result<CapabilitySpec, Error> {
        self.check()?;
        let (add, drop) = (Named::of(&self.add), Named::of(&self.drop));
        // What is named goes over ALL.
        let dropped = drop.or_all() & !add.caps;
        let added = add.or_all() & !drop.caps;
        let bounding = (Caps::all() & !dropped) | added;
        let permitted = if uid == 0 { bounding } else { added };
        // Without, they would be gone with the next execve of somebody who is not root.
        let own = if uid == 0 { Caps::empty() } else { added };
        let ambient = Named::of(&self.ambient).or_all();
        let missing = ambient & !permitted;
        if !missing.is_empty() {
            let problem = format!(
                "{} cannot be ambient: user {uid} has it not (permitted), see --cap-add",
                list(missing)
            );
            return Err(Error::option("--cap-ambient", problem));
        }
        let ambient = (ambient | own).bits();
        Ok(CapabilitySpec {
            bounding: bounding.bits(),
            permitted: permitted.bits(),
            effective: permitted.bits(),
            inheritable: ambient,
            ambient,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn sets(uid: u32, add: &str, drop: &str, ambient: &str) -> Result<CapabilitySpec, String> {
        let all = Capabilities { add: names(add), drop: names(drop), ambient: names(ambient) };
        all.of_user(uid).map_err(|error| error.to_string())
    }

    #[test]
    fn as_docker_adds_and_drops() {
        let all = Caps::all().bits();
        let root = sets(0, "", "", "").unwrap();
        assert_eq!((root.permitted, root.bounding, root.ambient), (all, all, 0));
        let user = sets(7, "", "", "").unwrap();
        assert_eq!((user.permitted, user.bounding, user.ambient), (0, all, 0));
        let (chown, kill) = (Caps::CHOWN.bits(), Caps::KILL.bits());
        let few = sets(0, "cap_chown KILL", "all", "kill").unwrap();
        assert_eq!((few.permitted, few.bounding, few.ambient), (chown | kill, chown | kill, kill));
        assert_eq!(few.inheritable, kill);
        let most = sets(0, "ALL", "CHOWN", "").unwrap();
        assert_eq!((most.effective, most.bounding), (all & !chown, all & !chown));
        let user = sets(7, "chown", "kill", "").unwrap();
        assert_eq!((user.permitted, user.ambient, user.bounding), (chown, chown, all & !kill));
    }

    #[test]
    fn what_is_impossible_is_named() {
        for (uid, add, drop, ambient, option) in [
            (0, "KILL", "CAP_KILL", "", "--cap-drop: CAP_KILL"),
            (0, "ALL", "all", "", "--cap-drop: ALL"),
            (0, "", "KILL", "KILL", "--cap-ambient: CAP_KILL"),
            (0, "CHOWN", "ALL", "KILL", "--cap-ambient: CAP_KILL"),
            (7, "", "", "KILL CHOWN", "--cap-ambient: CAP_CHOWN, CAP_KILL"),
        ] {
            let error = sets(uid, add, drop, ambient).unwrap_err();
            assert!(error.starts_with(option), "{error}");
        }
    }

    #[test]
    fn unknown_names_are_found() {
        let odd =
            Capabilities { add: names("CAP_MAGIC kill"), drop: names("x"), ..Default::default() };
        let expected = [("--cap-add", "CAP_MAGIC".into()), ("--cap-drop", "x".into())];
        assert_eq!(odd.unknown(), expected);
        assert!(odd.of_user(0).is_ok());
    }

    proptest! {
        #[test]
        fn sets_are_what_linux_could_have(
            uid in 0u32..2, add: u64, drop: u64, ambient: u64, masks: [bool; 3],
        ) {
            let few = |bits: u64, none: bool| -> Vec<String> {
                let caps = Caps::from_bits_truncate(if none { 0 } else { bits });
                caps.iter_names().map(|(name, _)| name.to_owned()).collect()
            };
            let all = Capabilities {
                add: few(add, masks[0]), drop: few(drop, masks[1]), ambient: few(ambient, masks[2]),
            };
            if let Ok(sets) = all.of_user(uid) {
                prop_assert_eq!(sets.permitted & !sets.bounding, 0);
                prop_assert_eq!(sets.effective & !sets.permitted, 0);
                prop_assert_eq!(sets.ambient & !(sets.permitted & sets.inheritable), 0);
            }
        }
    }
}
