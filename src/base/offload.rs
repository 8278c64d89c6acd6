//! What a NIC has already done to a frame, or left undone.

/// State of the transport checksum of a received frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Nobody has looked: the checksum is what came from the wire.
    #[default]
    Unverified,
    /// The NIC has verified it.
    Verified,
    /// The sender is a local kernel that left it unfinished: only the pseudo-header is in the field.
    Partial,
    /// The port cannot tell (XDP on a veth or virtio device): unfinished exactly if the field equals the
    /// pseudo-header's sum.
    MaybePartial,
}
