//! IPv4 options (RFC 791 §3.1), as a forwarder must look at them (RFC 7126).

use crate::base::DropReason;

/// Walks the options of a header.
///
/// # Errors
/// [`DropReason::SourceRoute`] for a loose or strict source route (RFC 7126 §4.3, §4.4); [`DropReason::IpOptions`] for
/// options that are malformed.
pub fn check(options: &[u8]) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    let mut rest = options;
    loop {
        match *rest {
            [] | [END, ..] => return Ok(()),
            [NO_OPERATION, ..] => rest = &rest[1..],
            [LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE, ..] => return Err(DropReason::SourceRoute),
            [_, len, ..] if len >= 2 => {
                rest = rest.get(usize::from(len)..).ok_or(DropReason::IpOptions)?;
            }
            _ => return Err(DropReason::IpOptions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_walked_to_the_end() {
        let timestamp_then_end = [1, 68, 4, 5, 0, 0, 131, 3];
        assert_eq!(check(&timestamp_then_end), Ok(()), "behind the end marker nothing counts");
        assert_eq!(check(&[1, 1, 131, 3, 4, 0, 0, 0]), Err(DropReason::SourceRoute));
        assert_eq!(check(&[137, 3, 4, 0]), Err(DropReason::SourceRoute));
        assert_eq!(check(&[148, 4, 0, 0]), Ok(()));
        for malformed in [[7, 0, 0, 0], [7, 1, 0, 0], [7, 5, 0, 0], [1, 1, 1, 7]] {
            assert_eq!(check(&malformed), Err(DropReason::IpOptions), "{malformed:?}");
        }
    }
}
