//! Durations in the form of Istio's configuration.

use std::time::Duration;

/// Parses a duration as Go and protobuf write it: `45s`, `1m30s`, `1.5h`, `200ms`.
pub fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = 0.0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, after) = rest.split_at(number);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += value.parse::<f64>().ok()? * seconds;
        rest = after;
    }
    (!text.trim().is_empty()).then_some(total).and_then(|t| Duration::try_from_secs_f64(t).ok())
}

#[cfg(test)]
mod tests {
    use super::go_duration;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let seconds = |text| go_duration(text).map(|d| d.as_secs_f64());
        assert_eq!(seconds("45s"), Some(45.0));
        assert_eq!(seconds("1m30s"), Some(90.0));
        assert_eq!(seconds("1.5h"), Some(5400.0));
        assert_eq!(seconds("200ms"), Some(0.2));
        for wrong in ["", "45", "s", "4x"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
