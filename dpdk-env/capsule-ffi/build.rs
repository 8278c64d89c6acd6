//! Finds DPDK and compiles the shim.

use std::process::Command;

/// The oldest release with all that is used here.
const OLDEST: &str = "22.11";

fn main() {
    println!("cargo::rerun-if-changed=src/shim.c");
    println!("cargo::rerun-if-changed=build.rs");
    let library = pkg_config::Config::new().atleast_version(OLDEST).probe("libdpdk").unwrap_or_else(|error| {
        panic!(
            "capsule needs DPDK {OLDEST} or newer with its headers: on Debian or Ubuntu `apt install libdpdk-dev dpdk`, \
             elsewhere see dpdk-env/README.md\n{error}"
        )
    });
    let mut shim = cc::Build::new();
    shim.file("src/shim.c").includes(&library.include_paths).warnings(true);
    // The inline functions depend on flags (`-include rte_config.h`, `-march`) that are no include paths.
    let output = Command::new("pkg-config").args(["--cflags-only-other", "libdpdk"]).output();
    let output = output.expect("pkg-config, which has just found DPDK");
    for flag in String::from_utf8_lossy(&output.stdout).split_whitespace() {
        shim.flag(flag);
    }
    shim.compile("capsule_ffi");
}
