//! Small numbers with a meaning of their own, so that a port is never taken for a worker.

use std::fmt;

macro_rules! index {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// The number as a position in a slice.
            #[inline]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

index! {
    /// A NIC port of the gateway, in the order of the configuration.
    PortIndex(u16)
}
index! {
    /// A worker, numbered from zero.
    WorkerIndex(u16)
}
index! {
    /// A logical interface: a port, or a VLAN of a port, with an address.
    InterfaceIndex(u16)
}
index! {
    /// A VPC. It is the tenant in every key, so two VPCs may use the same private addresses.
    VpcIndex(u16)
}
index! {
    /// A NAT gateway.
    GatewayIndex(u32)
}
index! {
    /// The dense slot of an EIP. An EIP keeps its slot for as long as it is configured.
    EipIndex(u32)
}
index! {
    /// A bandwidth plan.
    PlanIndex(u32)
}
index! {
    /// A DNAT or SNAT entry, unique over both tables for as long as it is configured.
    EntryId(u32)
}
index! {
    /// The number of a published configuration; each one published is greater than the one before.
    Generation(u32)
}
