//! Large zeroed memory on huge pages: session tables, indices and packet buffers, sized once at start.
//!
//! A random access to gigabytes of 4 KiB pages pays for a TLB miss beside the cache miss; on 2 MiB pages it does
//! not.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use zerocopy::FromZeros;

/// The kind of pages that a region got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Explicit 2 MiB pages from the kernel's pool (`vm.nr_hugepages`).
    Huge,
    /// Ordinary pages, with transparent huge pages asked for.
    Transparent,
    /// Ordinary pages.
    Small,
}

/// A fixed slice of zeroed values, aligned to a page.
#[derive(Debug)]
pub struct HugeSlice<T> {
    start: NonNull<T>,
    len: usize,
    mapped: usize,
    pages: Pages,
}

// SAFETY: a `HugeSlice` owns its values as a `Box<[T]>` does.
#[allow(unsafe_code)]
unsafe impl<T: Send> Send for HugeSlice<T> {}
// SAFETY: as above: shared access gives out shared references only.
#[allow(unsafe_code)]
unsafe impl<T: Sync> Sync for HugeSlice<T> {}

/// Size of an explicit huge page in bytes.
const HUGE: usize = 2 << 20;

impl<T: FromZeros> HugeSlice<T> {
    /// `len` zeroed values, on explicit huge pages where the kernel has enough of them; on ordinary ones if they would fill
    /// less than half of one, which takes longer to clear than it could ever save.
    ///
    /// # Errors
    /// The kernel's, when it gives no memory at all.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
        if bytes < HUGE / 2 {
            return Self::sparse(len);
        }
        let whole = bytes.checked_next_multiple_of(HUGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let (start, pages) = match map(whole, libc::MAP_HUGETLB).ok() {
            Some(start) => (start, Pages::Huge),
            None => (map(whole, 0)?, Pages::Transparent),
        };
        if pages == Pages::Transparent {
            advise_huge(start, whole);
        }
        Ok(Self { start: start.cast(), len, mapped: whole, pages })
    }

    /// `len` zeroed values on ordinary pages that take memory only when they are first written: for large tables of which
    /// a small part will be used.
    ///
    /// # Errors
    /// The kernel's, when it gives no address space.
    pub fn sparse(len: usize) -> io::Result<Self> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory)?.max(1);
        let start = map(bytes, libc::MAP_NORESERVE)?;
        Ok(Self { start: start.cast(), len, mapped: bytes, pages: Pages::Small })
    }
}

impl<T> HugeSlice<T> {
    /// The kind of pages underneath.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// Bytes of address space taken.
    pub fn mapped_bytes(&self) -> usize {
        self.mapped
    }

    /// Bytes of it that take memory at present, in whole pages.
    pub fn bytes_in_use(&self) -> usize {
        let page = page_size();
        let mut pages = vec![0u8; self.mapped.div_ceil(page)];
        if !ask_residence(self.start.cast(), self.mapped, &mut pages) {
            return self.mapped;
        }
        pages.iter().filter(|state| **state & 1 == 1).count() * page
    }

    /// The first value's address, for a kernel interface that wants it.
    pub fn as_ptr(&self) -> NonNull<T> {
        self.start
    }
}

impl<T> Deref for HugeSlice<T> {
    type Target = [T];

    #[inline(always)]
    #[allow(unsafe_code)]
    fn deref(&self) -> &[T] {
        // SAFETY: `start` points to `len` values that are valid when zeroed (`FromZeros`), aligned to a page,
        // owned by `self` and mapped until it is dropped.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for HugeSlice<T> {
    #[inline(always)]
    #[allow(unsafe_code)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for HugeSlice<T> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: exactly the region that `map` returned, unmapped once; no reference outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped) };
    }
}

#[allow(unsafe_code)]
fn map(bytes: usize, flags: libc::c_int) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
    let start =
        unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

#[allow(unsafe_code)]
fn advise_huge(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the region was mapped just now by `map`; the advice changes no contents, and failing is harmless.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
}

#[allow(unsafe_code)]
fn page_size() -> usize {
    // SAFETY: asks for a constant of the system.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096).max(1)
}

/// Sets the lowest bit of a byte for each page of a region that is in memory.
#[allow(unsafe_code)]
fn ask_residence(start: NonNull<u8>, bytes: usize, pages: &mut [u8]) -> bool {
    // SAFETY: the kernel reads no memory of the region and writes one byte a page, for each of which there is one.
    unsafe { libc::mincore(start.as_ptr().cast(), bytes, pages.as_mut_ptr()) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_zeroed_and_writable() {
        let mut slice = HugeSlice::<u64>::zeroed(1 << 18).unwrap();
        assert_eq!(slice.len(), 1 << 18);
        assert!(slice.iter().all(|&value| value == 0));
        slice[(1 << 18) - 1] = 7;
        assert_eq!(slice.iter().sum::<u64>(), 7);
    }

    #[test]
    fn sparse_memory_is_taken_as_it_is_used() {
        let mut slice = HugeSlice::<u64>::sparse(1 << 20).unwrap();
        assert_eq!(slice.bytes_in_use(), 0);
        slice[1 << 19] = 1;
        let used = slice.bytes_in_use();
        // A page, which may be a transparent huge one.
        assert!((page_size()..=HUGE).contains(&used), "{used}");
    }

    #[test]
    fn a_small_slice_takes_no_huge_page() {
        let mut slice = HugeSlice::<u64>::zeroed(64).unwrap();
        slice[63] = 1;
        assert_eq!((slice.pages(), slice.bytes_in_use()), (Pages::Small, page_size()));
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        assert!(HugeSlice::<u64>::zeroed(usize::MAX / 4).is_err());
    }
}
