//! `struct sockaddr_un` (unix(7)).

use abi::Errno;

/// Longest `sun_path`.
const PATH_MAX: usize = 108;
const AF_UNIX: u16 = 1;

/// An address as the guest gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnixAddr {
    /// Only the family: bind(2) then chooses an abstract name.
    Unnamed,
    /// A path.
    Path(Vec<u8>),
    /// An abstract name, without the leading NUL.
    Abstract(Vec<u8>),
}

impl UnixAddr {
    /// Decodes a `struct sockaddr_un`. `EINVAL`.
    pub fn decode(bytes: &[u8]) -> Result<UnixAddr, Errno> {
        let family = bytes.first_chunk::<2>().map(|b| u16::from_ne_bytes(*b));
        let name = bytes.get(2..).unwrap_or_default();
        if family != Some(AF_UNIX) || name.len() > PATH_MAX {
            return Err(Errno::EINVAL);
        }
        Ok(match name {
            [] => UnixAddr::Unnamed,
            [0, rest @ ..] => UnixAddr::Abstract(rest.to_vec()),
            path => {
                let end = path.iter().position(|&b| b == 0).unwrap_or(path.len());
                UnixAddr::Path(path.get(..end).unwrap_or_default().to_vec())
            }
        })
    }

    /// As getsockname(2) returns it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = AF_UNIX.to_ne_bytes().to_vec();
        match self {
            UnixAddr::Unnamed => {}
            UnixAddr::Path(path) => {
                out.extend_from_slice(path);
                out.push(0);
            }
            UnixAddr::Abstract(name) => {
                out.push(0);
                out.extend_from_slice(name);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kinds_of_names() {
        assert_eq!(UnixAddr::decode(b"\x01\0"), Ok(UnixAddr::Unnamed));
        assert_eq!(UnixAddr::decode(b"\x01\0a\0b"), Ok(UnixAddr::Path(b"a".to_vec())));
        assert_eq!(UnixAddr::decode(b"\x01\0\0a\0"), Ok(UnixAddr::Abstract(b"a\0".to_vec())));
        assert_eq!(UnixAddr::decode(b"\x02\0a"), Err(Errno::EINVAL));
        assert_eq!(UnixAddr::decode(b"\x01"), Err(Errno::EINVAL));
        assert!(UnixAddr::decode(&[&b"\x01\0"[..], &[b'a'; 108]].concat()).is_ok());
        assert!(UnixAddr::decode(&[&b"\x01\0"[..], &[b'a'; 109]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn encoding_round_trips(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let bytes = [&[1, 0], &bytes[..]].concat();
            if let Ok(addr) = UnixAddr::decode(&bytes) {
                let again = addr.encode();
                // A path of 108 bytes has no room for its NUL, and gets one all the same.
                if again.len() <= 110 {
                    prop_assert_eq!(UnixAddr::decode(&again), Ok(addr));
                }
            }
        }
    }
}
