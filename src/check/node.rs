//! A place in a parsed file: the value there, if any, and how to get there.
//!
//! What is missing, or `null`, has only missing things in it. What is there with the wrong type is an
//! error that names the place.

use serde_json::Value;

use super::finding::quoted;

/// Something has the wrong type, or is missing where it must not be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{at}: {problem}")]
pub(super) struct Malformed {
    at: String,
    problem: String,
}

/// A place.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    value: Option<&'a Value>,
    at: String,
}

impl<'a> Node<'a> {
    /// The whole file.
    pub(super) fn root(value: &'a Value) -> Node<'a> {
        Node { value: Some(value), at: String::new() }
    }

    /// The JSON pointer (RFC 6901) of the place.
    pub(super) fn at(&self) -> &str {
        &self.at
    }

    /// Whether there is anything.
    pub(super) fn exists(&self) -> bool {
        self.value.is_some()
    }

    /// An error about this place.
    pub(super) fn malformed(&self, problem: impl Into<String>) -> Malformed {
        let at = if self.at.is_empty() { "the file".to_owned() } else { quoted(&self.at) };
        Malformed { at, problem: problem.into() }
    }

    fn expected(&self, what: &str, found: &Value) -> Malformed {
        let found = match found {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        self.malformed(format!("expected {what}, found {found}"))
    }

    fn inner(&self, step: &str, value: Option<&'a Value>) -> Node<'a> {
        let step = step.replace('~', "~0").replace('/', "~1");
        let value = value.filter(|value| !value.is_null());
        Node { value, at: format!("{}/{step}", self.at) }
    }

    /// The member `key` of an object.
    pub(super) fn get(&self, key: &str) -> Result<Node<'a>, Malformed> {
        match self.value {
            None => Ok(self.inner(key, None)),
            Some(Value::Object(members)) => Ok(self.inner(key, members.get(key))),
            Some(other) => Err(self.expected("an object", other)),
        }
    }

    /// The elements of a list.
    pub(super) fn list(&self) -> Result<Vec<Node<'a>>, Malformed> {
        match self.value {
            None => Ok(Vec::new()),
            Some(Value::Array(elements)) => {
                let elements = elements.iter().enumerate();
                Ok(elements.map(|(i, value)| self.inner(&i.to_string(), Some(value))).collect())
            }
            Some(other) => Err(self.expected("a list", other)),
        }
    }

    /// Names and members of an object.
    pub(super) fn members(&self) -> Result<Vec<(&'a str, Node<'a>)>, Malformed> {
        match self.value {
            None => Ok(Vec::new()),
            Some(Value::Object(members)) => {
                let members = members.iter();
                Ok(members
                    .map(|(key, value)| (key.as_str(), self.inner(key, Some(value))))
                    .collect())
            }
            Some(other) => Err(self.expected("an object", other)),
        }
    }

    /// A string.
    pub(super) fn text(&self) -> Result<Option<&'a str>, Malformed> {
        match self.value {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.expected("a string", other)),
        }
    }

    /// A string; the empty one if there is none.
    pub(super) fn text_or_empty(&self) -> Result<&'a str, Malformed> {
        self.text().map(Option::unwrap_or_default)
    }

    /// The strings of a list, with their places.
    pub(super) fn texts(&self) -> Result<Vec<(&'a str, Node<'a>)>, Malformed> {
        let elements = self.list()?.into_iter();
        elements
            .map(|node| match node.text()? {
                Some(text) => Ok((text, node)),
                None => Err(node.malformed("expected a string, found null")),
            })
            .collect()
    }

    /// True or false.
    pub(super) fn flag(&self) -> Result<Option<bool>, Malformed> {
        match self.value {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.expected("true or false", other)),
        }
    }

    /// A whole number.
    pub(super) fn integer(&self) -> Result<Option<i128>, Malformed> {
        let Some(value) = self.value else { return Ok(None) };
        let number = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
        number.map(Some).ok_or_else(|| self.expected("a whole number", value))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places_are_json_pointers() {
        let value = json!({"a/b": [{"~": 1}]});
        let node = Node::root(&value).get("a/b").unwrap();
        let inner = node.list().unwrap()[0].get("~").unwrap();
        assert_eq!(inner.at(), "/a~1b/0/~0");
        assert_eq!(value.pointer(inner.at()), Some(&json!(1)));
    }

    #[test]
    fn the_wrong_type_is_an_error_that_names_the_place() {
        let value = json!({"a": {"b": 1.5, "c": null}});
        let a = Node::root(&value).get("a").unwrap();
        let error = a.get("b").unwrap().integer().unwrap_err().to_string();
        assert!(error.contains("/a/b") && error.contains("whole number"), "{error}");
        assert!(a.get("b").unwrap().get("x").is_err());
        assert_eq!(a.get("c").unwrap().get("x").unwrap().text(), Ok(None));
    }
}
