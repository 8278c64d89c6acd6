//! DPDK's environment: capsule's arguments in today's words, and on which node a core is.

use std::ffi::{CStr, CString, c_char, c_int};
use std::fs;

mod sys {
    use std::ffi::{c_char, c_int};

    unsafe extern "C" {
        pub(super) fn rte_eal_init(count: c_int, arguments: *mut *mut c_char) -> c_int;
    }
}

/// Starts DPDK with capsule's arguments.
///
/// # Safety
/// So many C strings; called once.
pub unsafe fn rte_eal_init(count: c_int, arguments: *mut *mut c_char) -> c_int {
    let given = (0..count as usize).map(|at| {
        // SAFETY: the caller passes so many pointers.
        let argument = unsafe { *arguments.add(at) };
        // SAFETY: to C strings.
        unsafe { CStr::from_ptr(argument) }.to_owned()
    });
    let translated = translated(given.collect());
    let mut pointers: Vec<*mut c_char> = translated.iter().map(|text| text.as_ptr().cast_mut()).collect();
    // SAFETY: so many C strings, which live beyond the call; DPDK changes their order but not their text, and copies what it
    // keeps.
    unsafe { sys::rte_eal_init(pointers.len() as c_int, pointers.as_mut_ptr()) }
}

/// Options under the names that they have since DPDK 20.11.
fn translated(given: Vec<CString>) -> Vec<CString> {
    let mut all = Vec::with_capacity(given.len());
    let mut given = given.into_iter().peekable();
    while let Some(argument) = given.next() {
        all.push(match argument.to_bytes() {
            b"--master-lcore" => c"--main-lcore".to_owned(),
            b"--pci-whitelist" => c"-a".to_owned(),
            // capsule takes for a PCI address only what has no letters in it.
            b"--vdev" if given.peek().is_some_and(|device| is_pci(device)) => c"-a".to_owned(),
            _ => argument,
        });
    }
    all
}

/// Whether a device's name starts with a PCI address with its domain.
fn is_pci(device: &CStr) -> bool {
    let device = device.to_bytes();
    let address = device.split(|&byte| byte == b',').next().unwrap_or_default();
    address.len() == 12
        && address.iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b':',
            10 => *byte == b'.',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// The NUMA node of a core, as libnuma says it: negative if there is no such core.
pub fn numa_node_of_cpu(core: c_int) -> c_int {
    let Ok(entries) = fs::read_dir(format!("/sys/devices/system/cpu/cpu{core}")) else { return -1 };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    // A kernel without NUMA has one node and does not say so.
    names.filter_map(|name| name.strip_prefix("node")?.parse().ok()).next().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<CString> {
        text.split(' ').map(|word| CString::new(word).unwrap()).collect()
    }

    #[test]
    fn options_have_todays_names() {
        let given = "app --proc-type primary --pci-whitelist 0000:03:00.0 --vdev 0000:3b:00.1 --vdev net_null0,size=64 \
                     --master-lcore 0 -l 0";
        let wanted = "app --proc-type primary -a 0000:03:00.0 -a 0000:3b:00.1 --vdev net_null0,size=64 --main-lcore 0 -l 0";
        assert_eq!(translated(words(given)), words(wanted));
    }

    #[test]
    fn every_core_is_on_a_node() {
        assert!(numa_node_of_cpu(0) >= 0);
        assert_eq!(numa_node_of_cpu(1 << 20), -1);
    }
}
