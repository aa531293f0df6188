//! What C's functions do to memory.

use std::ffi::CStr;
use std::ptr::{null_mut, with_exposed_provenance_mut};

/// An address that the DLL has passed as an argument.
///
/// Its methods are what C's functions do to memory, and are as safe as they: the host trusts the DLL to keep to their
/// contracts, as every process trusts the libraries that it loads.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Address(*mut u8);

impl Address {
    pub(crate) const NULL: Self = Self(null_mut());

    pub(crate) fn of<T>(pointer: *const T) -> Self {
        Self(pointer.cast_mut().cast())
    }

    pub(crate) fn of_number(address: usize) -> Self {
        Self(with_exposed_provenance_mut(address))
    }

    pub(crate) fn number(self) -> usize {
        self.0.expose_provenance()
    }

    /// Whether it is null.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub(crate) fn cast<T>(self) -> *mut T {
        self.0.cast()
    }

    /// So many bytes behind it.
    pub(crate) fn plus(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Puts a value there.
    pub(crate) fn put<T>(self, value: T) {
        // SAFETY: the DLL passes the place of a value of that type.
        unsafe { self.cast::<T>().write_unaligned(value) };
    }

    pub(crate) fn copy(self, from: Self, length: usize) -> Self {
        // SAFETY: the DLL passes two blocks of that length. For memcpy they do not overlap; this allows it, too.
        unsafe { self.0.copy_from(from.0, length) };
        self
    }

    pub(crate) fn fill(self, byte: u8, length: usize) -> Self {
        // SAFETY: the DLL passes a block of that length.
        unsafe { self.0.write_bytes(byte, length) };
        self
    }

    pub(crate) fn find(self, byte: u8, length: usize) -> Self {
        // SAFETY: the DLL passes a block of at least that length up to the byte that it looks for.
        let found = (0..length).find(|index| unsafe { self.0.add(*index).read() } == byte);
        // SAFETY: inside the block.
        found.map_or(Self::NULL, |index| Self(unsafe { self.0.add(index) }))
    }

    pub(crate) fn c_string<'a>(self) -> &'a CStr {
        // SAFETY: the DLL passes a string that ends with a zero and stays for the call.
        unsafe { CStr::from_ptr(self.0.cast()) }
    }

    /// "strncmp".
    pub(crate) fn compare(self, other: Self, length: usize) -> i32 {
        for index in 0..length {
            // SAFETY: both strings continue: no zero and no difference came before, and the length is not reached.
            let (a, b) = unsafe { (self.0.add(index).read(), other.0.add(index).read()) };
            if a != b || a == 0 {
                return i32::from(a) - i32::from(b);
            }
        }
        0
    }

    /// How many bytes the string starts with that are, or are not, in the other string: "strspn", "strcspn".
    pub(crate) fn span(self, of: Self, are_in: bool) -> usize {
        let (bytes, set) = (self.c_string().to_bytes(), of.c_string().to_bytes());
        bytes.iter().take_while(|byte| set.contains(byte) == are_in).count()
    }

    /// "strchr", and from the end "strrchr". The zero at the end belongs to the string.
    pub(crate) fn find_in_string(self, byte: u8, from_the_end: bool) -> Self {
        let bytes = self.c_string().to_bytes_with_nul();
        let found = match from_the_end {
            true => bytes.iter().rposition(|other| *other == byte),
            false => bytes.iter().position(|other| *other == byte),
        };
        found.map_or(Self::NULL, |index| self.plus(index))
    }

    /// "memcmp".
    pub(crate) fn compare_bytes(self, other: Self, length: usize) -> i32 {
        // SAFETY: the DLL passes two blocks of that length, or of none.
        let result = unsafe { libc::memcmp(self.cast(), other.cast(), length) };
        result.signum()
    }

    pub(crate) fn wide_length(self) -> usize {
        // SAFETY: the DLL passes a string of 16-bit units that ends with a zero.
        (0..).take_while(|index| unsafe { self.0.cast::<u16>().add(*index).read_unaligned() } != 0).count()
    }
}
