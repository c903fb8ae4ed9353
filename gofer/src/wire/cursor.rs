//! Bounded little-endian reading and writing of messages. Decoding never panics and never
//! allocates more than a small multiple of the bytes that were really received.

/// A message that does not follow the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub struct Malformed;

/// Takes values off the front of a byte slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// The next `n` bytes.
    pub fn raw(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(Malformed)?;
        self.rest = tail;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.raw(N)?.try_into().map_err(|_| Malformed)
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Fails if bytes are left over.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// Appends values to a buffer that belongs to a connection.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Writer<'a> {
        Writer { out }
    }

    /// Appends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Bytes in the buffer so far, the header included.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }
}

/// A value with a place on the wire.
pub trait Wire<'a>: Sized {
    /// Appends the value. Values that exceed a protocol limit are cut to the limit by the caller's
    /// checks, not here; the peer's [`Wire::take`] refuses them.
    fn put(&self, w: &mut Writer<'_>);
    /// Reads the value back, checking every limit.
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed>;
}

macro_rules! wire_int {
    ($($t:ty),*) => {$(
        impl<'a> Wire<'a> for $t {
            fn put(&self, w: &mut Writer<'_>) {
                w.raw(&self.to_le_bytes());
            }
            fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
                Ok(<$t>::from_le_bytes(r.array()?))
            }
        }
    )*};
}
wire_int!(u8, u16, u32, u64, i64);

impl<'a> Wire<'a> for bool {
    fn put(&self, w: &mut Writer<'_>) {
        w.raw(&[u8::from(*self)]);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        match u8::take(r)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }
}

impl<'a, T: Wire<'a>> Wire<'a> for Option<T> {
    fn put(&self, w: &mut Writer<'_>) {
        self.is_some().put(w);
        if let Some(v) = self {
            v.put(w);
        }
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        if bool::take(r)? { Ok(Some(T::take(r)?)) } else { Ok(None) }
    }
}

/// Writes a list: a count, then the elements. At most `u16::MAX` elements are written.
pub fn put_list<'a, T: Wire<'a>>(w: &mut Writer<'_>, items: &[T]) {
    let n = items.len().min(usize::from(u16::MAX));
    (n as u16).put(w);
    for item in items.iter().take(n) {
        item.put(w);
    }
}

/// Reads a list of at most `max` elements, each of which takes at least one byte.
pub fn take_list<'a, T: Wire<'a>>(r: &mut Reader<'a>, max: usize) -> Result<Vec<T>, Malformed> {
    let n = usize::from(u16::take(r)?);
    if n > max || n > r.remaining() {
        return Err(Malformed);
    }
    let mut items = Vec::with_capacity(n.min(64));
    for _ in 0..n {
        items.push(T::take(r)?);
    }
    Ok(items)
}

/// Declares a struct whose fields go over the wire in order.
macro_rules! wire_struct {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* $field:ident: $t:ty,)* }) => {
        $(#[$meta])*
        pub struct $name { $($(#[$fmeta])* pub $field: $t,)* }

        impl<'a> $crate::wire::cursor::Wire<'a> for $name {
            fn put(&self, w: &mut $crate::wire::cursor::Writer<'_>) {
                $(self.$field.put(w);)*
                let _ = w;
            }
            fn take(
                r: &mut $crate::wire::cursor::Reader<'a>,
            ) -> Result<Self, $crate::wire::cursor::Malformed> {
                let _ = &r;
                Ok($name { $($field: <$t as $crate::wire::cursor::Wire<'a>>::take(r)?,)* })
            }
        }
    };
}
pub(crate) use wire_struct;
