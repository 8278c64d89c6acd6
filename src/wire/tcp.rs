//! TCP options (RFC 9293 §3.2), as far as a NAT looks at them.

/// By how many bits a host shifts the windows that it announces, from the options of its SYN (RFC 7323 §2.2); zero if it does
/// not say.
pub fn window_scale(options: &[u8]) -> u8 {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const WINDOW_SCALE: u8 = 3;
    const MOST: u8 = 14;
    let mut rest = options;
    loop {
        match *rest {
            [NO_OPERATION, ..] => rest = &rest[1..],
            [WINDOW_SCALE, 3, scale, ..] => return if scale < MOST { scale } else { MOST },
            [END, ..] | [] => return 0,
            [_, len, ..] if len >= 2 => rest = rest.get(usize::from(len)..).unwrap_or_default(),
            _ => return 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_found_among_other_options() {
        assert_eq!(window_scale(&[2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2]), 7);
        assert_eq!(window_scale(&[3, 3, 200]), 14);
        for none in [&[][..], &[0, 3, 3, 7], &[3], &[3, 3], &[8, 0, 3, 3, 7], &[2, 200], &[3, 4, 7, 7]] {
            assert_eq!(window_scale(none), 0, "{none:?}");
        }
    }
}
