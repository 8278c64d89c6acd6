//! Finds DPDK and compiles the shim, if the feature `dpdk` asks for it; else there is nothing to do.

fn main() {
    println!("cargo::rerun-if-changed=src/nic/dpdk/shim.c");
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "dpdk")]
    dpdk::build();
}

#[cfg(feature = "dpdk")]
mod dpdk {
    use std::process::Command;

    /// The oldest release with all that is used here.
    const OLDEST: &str = "22.11";

    pub fn build() {
        let library = pkg_config::Config::new().atleast_version(OLDEST).probe("libdpdk").unwrap_or_else(|error| {
            panic!(
                "the feature `dpdk` needs DPDK {OLDEST} or newer with its headers: on Debian or Ubuntu `apt install \
                 libdpdk-dev dpdk`, elsewhere see dpdk-env/README.md; or build without the feature\n{error}"
            )
        });
        let mut shim = cc::Build::new();
        shim.file("src/nic/dpdk/shim.c").includes(&library.include_paths).warnings(true);
        // The inline functions depend on flags (`-include rte_config.h`, `-march`) that are no include paths.
        for flag in flags() {
            shim.flag(flag);
        }
        shim.compile("natgate_dpdk");
    }

    fn flags() -> Vec<String> {
        let output = Command::new("pkg-config").args(["--cflags-only-other", "libdpdk"]).output();
        let output = output.expect("pkg-config, which has just found DPDK");
        String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
    }
}
