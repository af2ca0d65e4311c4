//! Sizes and rates as people write and read them. No IO.

/// Reads `4096`, `64k`, `64KiB`, `1.5g`, `1GB`. A letter alone and `iB` count in 1024, `B` in 1000.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor = factor(suffix.trim()).ok_or_else(|| format!("unknown size suffix in `{text}`"))?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(|| format!("`{text}` is too large"));
    }
    let value: f64 = number.parse().map_err(|_| format!("`{text}` is not a size"))?;
    let bytes = value * as_f64(factor);
    if bytes >= 2f64.powi(63) {
        return Err(format!("`{text}` is too large"));
    }
    Ok(round(bytes))
}

fn factor(suffix: &str) -> Option<u64> {
    let suffix = suffix.to_ascii_lowercase();
    let (letter, base) = match suffix.as_str() {
        "" | "b" => return Some(1),
        s if s.ends_with("ib") => (s.strip_suffix("ib")?, 1024u64),
        s if s.ends_with('b') => (s.strip_suffix('b')?, 1000),
        s => (s, 1024),
    };
    let power = ["k", "m", "g", "t"].iter().position(|l| *l == letter)?;
    Some(base.pow(u32::try_from(power).ok()? + 1))
}

/// `1.00 GiB`, `64.0 MiB`, `4 KiB`, `17 B`.
pub(crate) fn size(bytes: u64) -> String {
    let b = as_f64(bytes);
    match bytes {
        GIB.. => format!("{:.2} GiB", b / as_f64(GIB)),
        MIB.. if bytes.is_multiple_of(MIB) => format!("{} MiB", bytes / MIB),
        MIB.. => format!("{:.1} MiB", b / as_f64(MIB)),
        KIB.. if bytes.is_multiple_of(KIB) => format!("{} KiB", bytes / KIB),
        KIB.. => format!("{:.1} KiB", b / as_f64(KIB)),
        _ => format!("{bytes} B"),
    }
}

/// Reads a rate in bits per second, as links are sold: `400M`, `1.5G`, `100Mbit/s`, `64000`. Letters count
/// in 1000.
pub(crate) fn parse_rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no rate: write bits per second, such as 400M or 1.5G");
    let text = text.trim();
    let short = ["bit/s", "bps"].iter().find_map(|unit| text.strip_suffix(unit)).unwrap_or(text);
    let digits = short.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match short[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        _ => return Err(wrong()),
    };
    let rate = decimal(digits).ok_or_else(wrong)? * factor;
    if (SLOWEST_BPS..=FASTEST_BPS).contains(&rate) {
        return Ok(round(rate));
    }
    Err(format!(
        "`{text}` is out of range: from {} to {}",
        rate_bps(8_000),
        rate_bps(100_000_000_000)
    ))
}

/// Reads `2s`, `2.5s`, `800ms` or `3` (seconds): microseconds.
pub(crate) fn parse_time_us(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let number = |unit, us| text.strip_suffix(unit).and_then(decimal).map(|n| n * us);
    let us = number("ms", 1e3).or_else(|| number("s", 1e6)).or_else(|| number("", 1e6));
    match us {
        Some(us) if us <= LONGEST_US => Ok(round(us)),
        Some(_) => Err(format!("`{text}` is too long: at most a day")),
        None => Err(format!("`{text}` is no time: write 2s, 2.5s or 800ms")),
    }
}

/// Digits with at most one point; no sign, no exponent.
fn decimal(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if plain { text.parse().ok() } else { None }
}

/// `400 Mbit/s`, `1.5 Gbit/s`.
pub(crate) fn rate_bps(bps: u64) -> String {
    let (number, letter) = rate_parts(bps);
    format!("{number} {letter}bit/s")
}

/// `400M`, `1.5G`, as it is typed.
pub(crate) fn short_rate(bps: u64) -> String {
    let (number, letter) = rate_parts(bps);
    format!("{number}{}", letter.to_ascii_uppercase())
}

fn rate_parts(bps: u64) -> (String, char) {
    let (unit, letter) = match bps {
        1_000_000_000.. => (1e9, 'G'),
        1_000_000.. => (1e6, 'M'),
        _ => (1e3, 'k'),
    };
    let text = format!("{:.2}", as_f64(bps) / unit);
    (text.trim_end_matches('0').trim_end_matches('.').to_string(), letter)
}

/// 1e9 bytes per second; zero when no time passed.
pub(crate) fn gb_per_s(bytes: u64, secs: f64) -> f64 {
    if secs > 0.0 { as_f64(bytes) / secs / 1e9 } else { 0.0 }
}

/// Exact up to 2^53, which no count here reaches.
pub(crate) fn as_f64(n: u64) -> f64 {
    n as f64
}

/// The nearest integer; negative and NaN become zero.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` from a float saturates, which is what is wanted"
)]
pub(crate) fn round(x: f64) -> u64 {
    x.round() as u64
}

const SLOWEST_BPS: f64 = 8e3;
const FASTEST_BPS: f64 = 1e11;
const LONGEST_US: f64 = 86_400e6;
pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64MiB", 64 * MIB),
            ("64 mib", 64 * MIB),
            ("1g", GIB),
            ("1G", GIB),
            ("1GB", 1_000_000_000),
            ("1.5k", 1536),
            ("2TiB", 2048 * GIB),
            ("17b", 17),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "k", "-1", "1x", "1e9", "1..2", "99999999999999999999", "9999999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_read_back() {
        for bytes in [1, 4096, 64 * MIB, 3 * MIB + 512 * KIB, 5 * GIB / 4] {
            assert_eq!(parse_size(&size(bytes)), Ok(bytes));
        }
    }

    #[test]
    fn link_rates_count_in_thousands() {
        for (text, bps) in [
            ("400M", 400_000_000),
            ("1.5G", 1_500_000_000),
            ("100Mbit/s", 100_000_000),
            ("64kbps", 64_000),
            ("8000", 8000),
        ] {
            assert_eq!(parse_rate(text), Ok(bps), "{text}");
            assert_eq!(parse_rate(&rate_bps(bps).replace(' ', "")), Ok(bps), "{text}");
            assert_eq!(parse_rate(&short_rate(bps)), Ok(bps), "{text}");
        }
        for text in ["", "M", "-1M", "4MB", "1e9", "0", "1T", "900G", "1..2M", "NaN"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_have_units() {
        for (text, us) in
            [("2s", 2_000_000), ("2.5s", 2_500_000), ("800ms", 800_000), ("3", 3_000_000), ("0", 0)]
        {
            assert_eq!(parse_time_us(text), Ok(us), "{text}");
        }
        for text in ["", "s", "-1s", "2m", "1e3s", "9999999s", "two", "2 s s"] {
            assert!(parse_time_us(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_and_rounding_have_no_edge() {
        assert!((gb_per_s(2_000_000_000, 2.0) - 1.0).abs() < 1e-9);
        assert!(gb_per_s(1, 0.0).abs() < 1e-9);
        assert_eq!(round(-3.0), 0);
        assert_eq!(round(f64::NAN), 0);
        assert_eq!(round(2.5), 3);
    }
}
