//! Labels of Linux's security modules: AppArmor's profile, SELinux's context.
//!
//! The gofer and the Sentry are forks (docs/decisions/0001), so there is no exec to change the label at: each
//! process changes its own, which AppArmor calls `change_profile` and SELinux a dynamic transition
//! (`process:dyntransition`, which the policy must allow). Both want a process with one thread.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Context, Error, Layer};

/// Longest label, in bytes: attributes are a page at most.
const MAX_LABEL: usize = 4000;
/// Where a process sees its own attributes.
const ATTRIBUTES: &str = "/proc/thread-self/attr";
/// Where the host says what it has.
const SYS: &str = "/sys";

/// The labels that a process takes on. `None` leaves it what the launcher has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// An AppArmor profile that is loaded.
    pub apparmor: Option<String>,
    /// An SELinux context: `user:role:type:level`.
    pub selinux: Option<String>,
}

/// An attribute of the process, to write a label to and to read it back.
trait Attribute {
    fn set(&self, text: &str) -> io::Result<()>;
    fn get(&self) -> io::Result<String>;
}

impl Attribute for File {
    fn set(&self, text: &str) -> io::Result<()> {
        // Whole or not at all, at the beginning.
        let written = self.write_at(text.as_bytes(), 0)?;
        if written == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn get(&self) -> io::Result<String> {
        let mut text = vec![0; MAX_LABEL + 96];
        let length = self.read_at(&mut text, 0)?;
        text.truncate(length);
        Ok(String::from_utf8_lossy(&text).trim_end_matches(['\0', '\n']).to_owned())
    }
}

impl Labels {
    /// Whether the host has what they need.
    ///
    /// # Errors
    /// Names the layer and what is missing, or says that a label is malformed.
    pub fn check(&self) -> Result<(), Error> {
        self.check_in(Path::new(SYS))
    }

    fn check_in(&self, sys: &Path) -> Result<(), Error> {
        if let Some(profile) = &self.apparmor {
            well_formed(Layer::AppArmor, profile)?;
            let file = sys.join("module/apparmor/parameters/enabled");
            let enabled = fs::read_to_string(&file);
            if !enabled.as_ref().is_ok_and(|text| text.trim() == "Y") {
                let what = format!("profile {profile:?}: this host has it not enabled");
                return Err(Error::new(Layer::AppArmor, what, problem(enabled)));
            }
        }
        if let Some(label) = &self.selinux {
            well_formed(Layer::SELinux, label)?;
            let file = sys.join("fs/selinux/enforce");
            if let Err(error) = fs::metadata(&file) {
                let what = format!("label {label:?}: this host has it not enabled");
                return Err(Error::new(Layer::SELinux, what, error));
            }
        }
        Ok(())
    }

    /// Opens the attributes, while there is a `/proc`, and the process may.
    pub(crate) fn open(&self) -> Result<Opened, Error> {
        self.open_in(Path::new(ATTRIBUTES))
    }

    fn open_in(&self, attributes: &Path) -> Result<Opened, Error> {
        let open = |name: &str, layer: Layer| {
            let file = attributes.join(name);
            let open = OpenOptions::new().read(true).write(true).open(&file);
            open.context(layer, format!("opening {}", file.display()))
        };
        let apparmor = self.apparmor.as_ref().map(|profile| {
            open("apparmor/current", Layer::AppArmor).map(|file| (file, profile.clone()))
        });
        let selinux = self
            .selinux
            .as_ref()
            .map(|label| open("current", Layer::SELinux).map(|file| (file, label.clone())));
        Ok(Opened { apparmor: apparmor.transpose()?, selinux: selinux.transpose()? })
    }
}

/// A label that goes into an attribute: nothing that could end it early.
fn well_formed(layer: Layer, label: &str) -> Result<(), Error> {
    let good = !label.is_empty()
        && label.len() <= MAX_LABEL
        && !label.contains(|c: char| c.is_control() || c.is_whitespace());
    if good {
        return Ok(());
    }
    let shown: String = label.escape_debug().take(64).collect();
    let invalid = io::Error::from_raw_os_error(libc::EINVAL);
    Err(Error::new(layer, format!("\"{shown}\" is no label"), invalid))
}

/// Why a host has no AppArmor.
fn problem(enabled: io::Result<String>) -> io::Error {
    enabled.err().unwrap_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))
}

/// Labels that only need to be written.
#[derive(Debug)]
pub(crate) struct Opened {
    apparmor: Option<(File, String)>,
    selinux: Option<(File, String)>,
}

impl Opened {
    /// Takes them on, and looks that they are.
    pub(crate) fn apply(self) -> Result<(), Error> {
        if let Some((file, profile)) = &self.apparmor {
            change_profile(file, profile)?;
        }
        if let Some((file, label)) = &self.selinux {
            change_context(file, label)?;
        }
        Ok(())
    }
}

fn change_profile(attribute: &impl Attribute, profile: &str) -> Result<(), Error> {
    let what = || format!("changing to profile {profile:?}");
    attribute.set(&format!("changeprofile {profile}")).context(Layer::AppArmor, what())?;
    // `NAME (enforce)`.
    let now = attribute.get().context(Layer::AppArmor, "reading the profile back")?;
    let name = now.rsplit_once(" (").map_or(now.as_str(), |(name, _)| name);
    confirm(Layer::AppArmor, profile, name)
}

fn change_context(attribute: &impl Attribute, label: &str) -> Result<(), Error> {
    attribute.set(label).context(Layer::SELinux, format!("changing to {label:?}"))?;
    let now = attribute.get().context(Layer::SELinux, "reading the label back")?;
    confirm(Layer::SELinux, label, &now)
}

fn confirm(layer: Layer, wanted: &str, now: &str) -> Result<(), Error> {
    if now == wanted {
        return Ok(());
    }
    let error = io::Error::from_raw_os_error(libc::EPERM);
    Err(Error::new(
        layer,
        format!("{wanted:?} did not take effect, the process has {now:?}"),
        error,
    ))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// What was written, and how the kernel answers.
    struct Double {
        written: RefCell<Vec<String>>,
        says: &'static str,
        refuses: bool,
    }

    impl Double {
        fn new(says: &'static str) -> Double {
            Double { written: RefCell::default(), says, refuses: false }
        }
    }

    impl Attribute for Double {
        fn set(&self, text: &str) -> io::Result<()> {
            self.written.borrow_mut().push(text.to_owned());
            if self.refuses { Err(io::Error::from_raw_os_error(libc::ENOENT)) } else { Ok(()) }
        }

        fn get(&self) -> io::Result<String> {
            Ok(self.says.to_owned())
        }
    }

    #[test]
    fn a_label_is_written_and_read_back() {
        let double = Double::new("rsentry-jail (enforce)");
        change_profile(&double, "rsentry-jail").unwrap();
        assert_eq!(*double.written.borrow(), ["changeprofile rsentry-jail"]);
        change_profile(&Double::new("a//b (complain)"), "a//b").unwrap();
        let label = "system_u:system_r:container_t:s0:c1,c2";
        let double = Double::new("system_u:system_r:container_t:s0:c1,c2");
        change_context(&double, label).unwrap();
        assert_eq!(*double.written.borrow(), [label]);
    }

    #[test]
    fn one_that_does_not_take_effect_is_an_error_of_its_layer() {
        let error = change_profile(&Double::new("unconfined"), "x").unwrap_err();
        assert_eq!(error.layer, Layer::AppArmor);
        assert!(error.to_string().contains("unconfined"), "{error}");
        let error = change_context(&Double::new("kernel_t"), "x_t").unwrap_err();
        assert_eq!(error.layer, Layer::SELinux);
        let unknown = Double { refuses: true, ..Double::new("unconfined") };
        let error = change_profile(&unknown, "none-such").unwrap_err().to_string();
        assert!(error.starts_with("AppArmor: ") && error.contains("none-such"), "{error}");
    }

    #[test]
    fn files_are_written_whole_and_at_the_beginning() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("apparmor")).unwrap();
        for name in ["apparmor/current", "current"] {
            fs::write(directory.path().join(name), "unconfined\n").unwrap();
        }
        let labels = Labels { apparmor: Some("a".into()), selinux: Some("b_context_t".into()) };
        let Opened { apparmor, selinux } = labels.open_in(directory.path()).unwrap();
        // A plain file says what was written: no profile has that name.
        let error = change_profile(&apparmor.unwrap().0, "a").unwrap_err().to_string();
        assert!(error.contains("changeprofile a"), "{error}");
        change_context(&selinux.unwrap().0, "b_context_t").unwrap();
        let none = Labels { apparmor: Some("a".into()), selinux: None };
        let error = none.open_in(&directory.path().join("none")).unwrap_err();
        assert_eq!(error.layer, Layer::AppArmor);
        assert!(Labels::default().open_in(Path::new("/none")).unwrap().apply().is_ok());
    }

    #[test]
    fn what_the_host_lacks_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let apparmor = Labels { apparmor: Some("a".into()), selinux: None };
        let selinux = Labels { apparmor: None, selinux: Some("b".into()) };
        let text = |labels: &Labels| labels.check_in(directory.path()).unwrap_err().to_string();
        assert!(text(&apparmor).starts_with("AppArmor: profile \"a\""));
        assert!(text(&selinux).starts_with("SELinux: label \"b\""));
        let parameters = directory.path().join("module/apparmor/parameters");
        fs::create_dir_all(&parameters).unwrap();
        fs::write(parameters.join("enabled"), "N\n").unwrap();
        assert!(text(&apparmor).contains("not enabled"));
        fs::write(parameters.join("enabled"), "Y\n").unwrap();
        fs::create_dir_all(directory.path().join("fs/selinux")).unwrap();
        fs::write(directory.path().join("fs/selinux/enforce"), "1").unwrap();
        assert!(apparmor.check_in(directory.path()).is_ok());
        assert!(selinux.check_in(directory.path()).is_ok());
        for odd in ["", "a b", "a\nb", "a\0", &"x".repeat(MAX_LABEL + 1)] {
            let labels = Labels { apparmor: Some(odd.into()), selinux: None };
            assert!(text(&labels).contains("is no label"), "{odd:?}");
        }
    }
}
