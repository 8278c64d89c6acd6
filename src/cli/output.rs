//! Numbers and tables for people.

use std::fmt::Write as _;
use std::time::Duration;

/// A number of bytes with a unit.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 999.95 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A time as its two largest units.
pub fn time(seconds: f64) -> String {
    let duration = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let whole = duration.as_secs();
    let (days, hours, minutes, rest) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if whole < 10 => format!("{}.{}s", whole, duration.subsec_millis() / 100),
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m{rest:02}s"),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// A number of things.
pub fn counted(count: usize, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

/// A share in percent.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".into() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}

/// A rate, exact where it is small.
pub fn rate(per_second: f64) -> String {
    if per_second == 0.0 || per_second >= 100.0 {
        format!("{per_second:.0}")
    } else {
        format!("{per_second:.2}")
    }
}

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table that is as wide as its cells.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings; those that begin with `>` stand over numbers.
    pub fn new<'a>(headings: impl IntoIterator<Item = &'a str>) -> Self {
        let mut columns = Vec::new();
        let mut head = Vec::new();
        for heading in headings {
            let (align, heading) =
                heading.strip_prefix('>').map_or((Align::Left, heading), |rest| (Align::Right, rest));
            columns.push(align);
            head.push(heading.to_owned());
        }
        Self { columns, rows: vec![head] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether there is no row but the headings.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut widths = vec![0; self.columns.len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &self.rows {
            writeln!(f, "{}", line(row.iter().map(String::as_str), &widths, &self.columns))?;
        }
        Ok(())
    }
}

/// One line of cells with fixed widths, without spaces at its end. A cell that is too wide pushes the rest.
pub fn line<'a>(cells: impl IntoIterator<Item = &'a str>, widths: &[usize], columns: &[Align]) -> String {
    let mut line = String::new();
    for ((cell, &width), align) in cells.into_iter().zip(widths).zip(columns) {
        if !line.is_empty() {
            line.push_str("  ");
        }
        let _ = match align {
            Align::Left => write!(line, "{cell:<width$}"),
            Align::Right => write!(line, "{cell:>width$}"),
        };
    }
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(
            [0, 999, 1000, 999_949, 999_950, 12_345_678].map(bytes),
            ["0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "12.3 MB"]
        );
        assert_eq!(bytes(u64::MAX), "18.4 EB");
        assert_eq!(
            [0.0, 0.35, 9.99, 10.0, 61.0, 7440.0, 90_000.0].map(time),
            ["0.0s", "0.3s", "9.9s", "10s", "1m01s", "2h04m", "1d01h"]
        );
        assert_eq!((percent(1, 0), percent(1, 3)), ("-".into(), "33.3 %".into()));
        assert_eq!([0.0, 0.5, 99.0, 1e6].map(rate), ["0", "0.50", "99.00", "1000000"]);
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["NAME", ">COUNT"]);
        assert!(table.is_empty());
        table.row(["a".into(), "1000000".into()]);
        table.row(["longer".into(), "1".into()]);
        assert_eq!(table.to_string(), "NAME      COUNT\na       1000000\nlonger        1\n");
    }
}
