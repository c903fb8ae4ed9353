//! Socket addresses for people.

use std::net::{Ipv4Addr, Ipv6Addr};

/// `struct sockaddr_storage` is no longer than this.
pub(super) const MAX_ADDRESS: usize = 128;

/// A `struct sockaddr`: `unix:/path`, `unix:@abstract`, `10.0.0.1:80`, `[::1]:80`, `family 16`.
pub(super) fn describe(bytes: &[u8]) -> String {
    let Some((family, rest)) = bytes.split_first_chunk::<2>() else { return "unspecified".into() };
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_UNSPEC => "unspecified".into(),
        libc::AF_UNIX => match rest.split_first() {
            None => "unix:".into(),
            Some((0, name)) => format!("unix:@{}", name.escape_ascii()),
            Some(_) => {
                let name = rest.split(|&byte| byte == 0).next().unwrap_or_default();
                format!("unix:{}", name.escape_ascii())
            }
        },
        libc::AF_INET => match rest.first_chunk::<6>() {
            Some(&[p, q, a, b, c, d]) => {
                format!("{}:{}", Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([p, q]))
            }
            None => "ipv4, cut off".into(),
        },
        // Port, flow information, address.
        libc::AF_INET6 => match rest.split_first_chunk::<6>() {
            Some((&[p, q, ..], rest)) if rest.len() >= 16 => {
                let octets: [u8; 16] = std::array::from_fn(|i| rest.get(i).copied().unwrap_or(0));
                format!("[{}]:{}", Ipv6Addr::from(octets), u16::from_be_bytes([p, q]))
            }
            _ => "ipv6, cut off".into(),
        },
        family => format!("family {family}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_read_as_people_write_them() {
        let address = |family: i32, rest: &[u8]| {
            describe(&[&(family as u16).to_ne_bytes()[..], rest].concat())
        };
        assert_eq!(address(libc::AF_UNIX, b"/run/x\0\0"), "unix:/run/x");
        assert_eq!(address(libc::AF_UNIX, b"\0name\n"), "unix:@name\\n");
        assert_eq!(address(libc::AF_INET, &[0, 80, 127, 0, 0, 1]), "127.0.0.1:80");
        let mut six = [0; 22];
        (six[0], six[1], six[21]) = (1, 187, 1);
        assert_eq!(address(libc::AF_INET6, &six), "[::1]:443");
        assert_eq!(address(libc::AF_INET6, &six[..21]), "ipv6, cut off");
        assert_eq!(address(libc::AF_NETLINK, &[]), "family 16");
        assert_eq!(describe(&[1]), "unspecified");
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_address_without_control_characters(
            family in 0u16..50, rest in prop::collection::vec(any::<u8>(), 0..MAX_ADDRESS),
        ) {
            let text = describe(&[&family.to_ne_bytes()[..], &rest].concat());
            prop_assert!(text.chars().all(|c| !c.is_control()));
        }
    }
}
