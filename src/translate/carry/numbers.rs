//! Numbers, durations and percentages.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::limits::MAX_DURATION;
use super::refusal::{FieldRefusal, quote_shortened};

/// A number of a field that may be left out.
pub(super) fn carry_number<N: Copy + Into<i64>>(
    number: Option<N>,
    range: RangeInclusive<i64>,
) -> Result<Option<N>, FieldRefusal> {
    match number {
        Some(n) if !range.contains(&n.into()) => {
            let (n, from, to): (i64, _, _) = (n.into(), range.start(), range.end());
            Err(FieldRefusal::new(format!("{n} is not between {from} and {to}")))
        }
        _ => Ok(number),
    }
}

/// A percentage, as Istio takes it: 0, or 0.0001 to 100.
pub(super) fn check_percentage(value: f64) -> Result<(), FieldRefusal> {
    if value == 0.0 || (0.0001..=100.0).contains(&value) {
        return Ok(());
    }
    Err(FieldRefusal::new(format!("{value} is not 0, or a percentage between 0.0001 and 100")))
}

/// A duration of at least a millisecond and at most a year.
pub(super) fn carry_duration(text: Option<&String>) -> Result<Option<String>, FieldRefusal> {
    carry_duration_between(text, Duration::from_millis(1), MAX_DURATION)
}

/// A duration that may also be zero, where Istio takes that.
pub(super) fn carry_timeout(text: Option<&String>) -> Result<Option<String>, FieldRefusal> {
    carry_duration_between(text, Duration::ZERO, MAX_DURATION)
}

pub(super) fn carry_duration_between(
    text: Option<&String>,
    least: Duration,
    most: Duration,
) -> Result<Option<String>, FieldRefusal> {
    let Some(text) = text else { return Ok(None) };
    let parsed = parse_duration(text).ok_or_else(|| {
        FieldRefusal::new(format!("{} is not a duration", quote_shortened(text)))
            .cure("write it as 500ms, 2s, 1m30s or 1h")
    })?;
    // Istio takes no parts of a millisecond ("only durations to ms precision are supported").
    if parsed.subsec_nanos() % 1_000_000 != 0 || parsed < least || parsed > most {
        let message = format!("{} is not between {least:?} and {most:?}, in whole milliseconds", quote_shortened(text));
        return Err(FieldRefusal::new(message));
    }
    Ok(Some(text.clone()))
}

/// A duration as Go writes it: numbers, each with a unit. Istio's own parser takes no others in its objects.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    const LONGEST: usize = 32;
    const MOST_DIGITS: usize = 9;
    if text.is_empty() || text.len() > LONGEST {
        return None;
    }
    let mut rest = text;
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, after) = after.split_at(after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len()));
        let scale: u128 = match unit {
            "ns" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || part.is_empty() || part.len() > MOST_DIGITS || whole.len() > MOST_DIGITS {
            return None;
        }
        let digits = u32::try_from(part.len()).ok()?;
        nanos += whole.parse::<u128>().ok()? * scale;
        nanos += part.parse::<u128>().ok()? * scale / 10_u128.pow(digits);
        rest = after;
    }
    let (seconds, below) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    Some(Duration::new(u64::try_from(seconds).ok()?, u32::try_from(below).ok()?))
}

/// Envoy throws for a Maglev table whose size is no prime.
pub(super) fn is_prime(n: i64) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| n % d != 0)
}
