//! The wall clock: seconds since 1970, as RFC 3339 text in UTC, and back.

/// The time now.
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    u64::try_from(time.tv_sec).unwrap_or(0)
}

/// The time now, in nanoseconds.
pub fn now_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(nanos.unwrap_or(0))
}

/// The text of a time in milliseconds.
pub fn format_millis(millis: u64) -> String {
    let text = format(millis / 1000);
    format!("{}.{:03}Z", text.trim_end_matches('Z'), millis % 1000)
}

/// The milliseconds of a text, with or without a fraction of the second.
pub fn parse_millis(text: &str) -> Option<u64> {
    let Some((whole, fraction)) = text.strip_suffix('Z')?.split_once('.') else {
        return parse(text)?.checked_mul(1000);
    };
    let is_number = (1..=9).contains(&fraction.len()) && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let millis: u64 = format!("{fraction:0<3}").get(..3).filter(|_| is_number)?.parse().ok()?;
    Some(parse(&format!("{whole}Z"))? * 1000 + millis)
}

/// The text of a time.
pub fn format(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days of the proleptic Gregorian calendar, in eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The time of a text.
pub fn parse(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let shape = b"0000-00-00T00:00:00Z";
    let alike = bytes.len() == shape.len()
        && bytes
            .iter()
            .zip(shape)
            .all(|(byte, form)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form });
    if !alike {
        return None;
    }
    let number = |at: usize, len: usize| text[at..at + len].parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    let year = year.checked_sub(u64::from(month <= 2))?;
    let march_month = (month + 9) % 12;
    let day_of_year = (153 * march_month + 2) / 5 + day.checked_sub(1)?;
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    // What is no date (the 31st of June) is not written back as it was read.
    (format(seconds) == text).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_time_is_read_back_as_written(seconds in 0u64..250_000_000_000) {
            prop_assert_eq!(parse(&format(seconds)), Some(seconds));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse(&text);
        }
    }

    #[test]
    fn fractions_of_a_second() {
        assert_eq!(format_millis(1_700_000_000_007), "2023-11-14T22:13:20.007Z");
        assert_eq!(parse_millis("2023-11-14T22:13:20.007Z"), Some(1_700_000_000_007));
        assert_eq!(parse_millis("2023-11-14T22:13:20.5Z"), Some(1_700_000_000_500));
        assert_eq!(parse_millis("2023-11-14T22:13:20Z"), Some(1_700_000_000_000));
        for wrong in ["2023-11-14T22:13:20.Z", "2023-11-14T22:13:20.+1Z", "2023-11-14T22:13:20.0", ""] {
            assert_eq!(parse_millis(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn known_times() {
        assert_eq!(format(0), "1970-01-01T00:00:00Z");
        assert_eq!(format(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(format(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(parse("2023-02-30T00:00:00Z"), None);
    }
}
