//! Numbers with units, as people write them.

use std::fmt::Write as _;
use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];

/// A duration such as `5m`, `2h4m` or `500ms`: whole numbers, each with a unit (`d`, `h`, `m`, `s`, `ms`).
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut millis = 0u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, after) = number(rest)?;
        let (unit, scale) = DURATION_UNITS.into_iter().find(|(unit, _)| after.starts_with(unit))?;
        millis = millis.checked_add(number.checked_mul(scale)?)?;
        rest = after[unit.len()..].trim_start();
    }
    Some(Duration::from_millis(millis))
}

/// A duration in the notation that [`duration`] reads.
pub fn format_duration(duration: Duration) -> String {
    let mut millis = duration.as_millis() as u64;
    let mut text = String::new();
    for (unit, scale) in
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] as [(&str, u64); 5]
    {
        if millis >= scale {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{unit}", millis / scale);
            millis %= scale;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// A number such as `65536`, `10k` or `2M`; the units are decimal.
pub fn count(text: &str) -> Option<u64> {
    let (number, unit) = number(text.trim())?;
    let scale = match unit.trim_start() {
        "" => 1,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return None,
    };
    number.checked_mul(scale)
}

/// Bits a second, such as `100Mbps`.
pub fn rate(text: &str) -> Option<u64> {
    count(text.trim().strip_suffix("bps")?).filter(|rate| *rate > 0)
}

/// A rate in the notation that [`rate`] reads, exactly.
pub fn format_rate(bits_per_second: u64) -> String {
    let units = [("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)];
    let unit = units.into_iter().find(|(_, scale)| bits_per_second.is_multiple_of(*scale));
    let (unit, scale) = unit.filter(|_| bits_per_second > 0).unwrap_or(("", 1));
    format!("{}{unit}bps", bits_per_second / scale)
}

/// The number that a text starts with, and the rest.
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        let secs = |text| duration(text).map(|d| d.as_secs_f64());
        assert_eq!(secs("5m"), Some(300.0));
        assert_eq!(secs("2h4m"), Some(7440.0));
        assert_eq!(secs("1h 30s"), Some(3630.0));
        assert_eq!(secs("500ms"), Some(0.5));
        assert_eq!(secs("1d"), Some(86400.0));
        for wrong in
            ["", "5", "m", "5 minutes", "-5m", "1.5h", "5m3", "99999999999999999999s", "9999999999999999d"]
        {
            assert_eq!(secs(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn counts_and_rates() {
        assert_eq!(count("1048576"), Some(1_048_576));
        assert_eq!(count("10k"), Some(10_000));
        assert_eq!(count("2M"), Some(2_000_000));
        assert_eq!(count("10q"), None);
        assert_eq!(count("99999999999999999G"), None);
        assert_eq!(rate("100Mbps"), Some(100_000_000));
        assert_eq!(rate("1 Gbps"), Some(1_000_000_000));
        assert_eq!(rate("64kbps"), Some(64_000));
        for wrong in ["", "100", "100M", "0bps", "fast", "1.5Gbps"] {
            assert_eq!(rate(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn a_rate_is_read_back(bits in 1u64.., zeros in 0u32..12) {
            let bits = (bits / 10u64.pow(zeros)).saturating_mul(10u64.pow(zeros)).max(1);
            prop_assert_eq!(rate(&format_rate(bits)), Some(bits));
        }

        #[test]
        fn what_is_written_is_read_back(millis in 0u64..10_000_000_000) {
            let d = Duration::from_millis(millis);
            prop_assert_eq!(duration(&format_duration(d)), Some(d));
        }

        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = (duration(&text), count(&text), rate(&text));
        }
    }
}
