//! What only system calls tell of this machine's network devices.

use super::facts::Live;
use crate::nic::device::Device;

/// Asks about a device; none if there is no such device.
pub(super) fn look(name: &str) -> Option<Live> {
    let device = Device::find(name).ok()?;
    let all = nix::ifaddrs::getifaddrs().ok();
    let own = all.into_iter().flatten().filter(|interface| interface.interface_name == name);
    Some(Live {
        addresses: own.filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip())).collect(),
        gro: device.merges_in_kernel(),
        lro: device.merges_in_device(),
        hashes_udp_ports: device.hashes_udp_ports(),
    })
}
