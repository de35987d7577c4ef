//! Aligned columns, as kubectl prints them.

use std::io::{self, ErrorKind, Write};
use std::time::{Duration, SystemTime};

/// Writes to stdout. A reader that has seen enough (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), String> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("stdout: {error}")),
        _ => Ok(()),
    }
}

/// Rows under upper-case headings; each column as wide as its widest cell, three spaces apart.
pub(crate) fn render(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings
        .iter()
        .map(|heading| heading.chars().count())
        .collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let headings = headings
        .iter()
        .map(|heading| (*heading).to_owned())
        .collect();
    for row in std::iter::once(&headings).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 3 - cell.chars().count()));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// How long ago `since` (RFC 3339) was, in at most two units.
pub(crate) fn age(since: &str, now: SystemTime) -> String {
    match humantime::parse_rfc3339_weak(since) {
        Ok(then) => short(now.duration_since(then).unwrap_or_default()),
        Err(_) => "-".to_owned(),
    }
}

fn short(duration: Duration) -> String {
    let secs = duration.as_secs();
    let two = |big: u64, unit: char, small: u64, sub: char| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{sub}"),
    };
    match secs {
        0..120 => format!("{secs}s"),
        120..600 => two(secs / 60, 'm', secs % 60, 's'),
        600..7_200 => format!("{}m", secs / 60),
        7_200..28_800 => two(secs / 3_600, 'h', secs % 3_600 / 60, 'm'),
        28_800..172_800 => format!("{}h", secs / 3_600),
        _ => format!("{}d", secs / 86_400),
    }
}

/// Bytes with a binary unit: `812`, `3.4Ki`, `120Mi`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if count < 1_024 {
        return count.to_string();
    }
    let mut tenths = u128::from(count) * 10 / 1_024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1_024;
        unit += 1;
    }
    if tenths < 100 {
        format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{}{}", tenths / 10, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["node-A".to_owned(), "up".to_owned()],
            vec!["n".to_owned(), String::new()],
        ];
        assert_eq!(
            render(&["NAME", "STATE"], &rows),
            "NAME     STATE\nnode-A   up\nn\n"
        );
    }

    #[test]
    fn ages_and_sizes_are_short() {
        for (secs, text) in [
            (5, "5s"),
            (119, "119s"),
            (150, "2m30s"),
            (180, "3m"),
            (3_700, "61m"),
            (7_260, "2h1m"),
            (90_000, "25h"),
            (400_000, "4d"),
        ] {
            assert_eq!(short(Duration::from_secs(secs)), text);
        }
        for (count, text) in [
            (0, "0"),
            (1_023, "1023"),
            (1_024, "1.0Ki"),
            (3_500, "3.4Ki"),
            (125_829_120, "120Mi"),
            (u64::MAX, "15Ei"),
        ] {
            assert_eq!(bytes(count), text);
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!(age("1970-01-01T00:01:00Z", now), "40s");
        assert_eq!(age("", now), "-");
    }
}
