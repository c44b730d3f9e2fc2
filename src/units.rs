//! Numbers with units, as people write them: `30m`, `16G`.

const K: f64 = 1024.0;

/// `90s`, `30m`, `2h`, `1d`, in seconds.
pub(crate) fn seconds(text: &str) -> Option<f64> {
    scaled(text, &[("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86400.0)])
}

/// `500M`, `1.5 GiB`, in bytes.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim_end_matches("iB").trim_end_matches('B');
    let units = [("K", K), ("M", K * K), ("G", K * K * K), ("T", K * K * K * K)];
    scaled(text, &units).filter(|bytes| *bytes >= 0.0 && *bytes < 1e18).map(|bytes| bytes as u64)
}

/// `<number><unit>`.
fn scaled(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    let (number, factor) =
        units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))?;
    let number = number.trim();
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    number.parse::<f64>().ok().map(|number| number * factor)
}
