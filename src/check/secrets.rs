//! Environment variables that look like secrets.

/// Parts of variables' names that hint at secrets.
const NAMES: &[&str] =
    &["PASSWORD", "PASSWD", "SECRET", "TOKEN", "API_KEY", "APIKEY", "PRIVATE_KEY", "CREDENTIAL"];

/// The variable's name, if `NAME=VALUE` looks like a secret; with `passed_on`, a name alone takes
/// the caller's value.
pub(super) fn in_variable(variable: &str, passed_on: bool) -> Option<&str> {
    let (name, has_value) = match variable.split_once('=') {
        Some((name, value)) => (name, !value.is_empty()),
        None => (variable, passed_on),
    };
    let upper = name.to_ascii_uppercase();
    (has_value && NAMES.iter().any(|hint| upper.contains(hint))).then_some(name)
}
