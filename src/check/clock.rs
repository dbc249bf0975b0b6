//! Checks clocks: certificates are valid from one moment to another, so clusters must agree on the time.

use time::{Duration, OffsetDateTime};

use super::{CheckArea, Finding};

/// Difference that is ignored: slow networks, and times without fractions of seconds, explain it.
const TOLERATED: Duration = Duration::seconds(10);
/// Time by which certificates of `wharf ca` are backdated. A cluster whose clock is further behind refuses a new one.
const BACKDATED: Duration = Duration::minutes(5);

/// The time that another clock told, and the times of the question and the answer on this clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    pub asked: OffsetDateTime,
    pub answered: OffsetDateTime,
    pub said: OffsetDateTime,
}

impl ClockReading {
    /// Returns the least time by which the other clock is ahead of this one. It was read between question and answer,
    /// and tells whole seconds only.
    fn time_ahead(&self) -> Duration {
        let second = Duration::seconds(1);
        if self.said > self.answered {
            self.said - self.answered
        } else if self.said + second < self.asked {
            self.said + second - self.asked
        } else {
            Duration::ZERO
        }
    }
}

pub fn judge_clock(area: CheckArea, object: &str, reading: &ClockReading) -> Finding {
    let ahead = reading.time_ahead();
    let off = ahead.abs();
    let seconds = off.whole_seconds();
    let way = if ahead.is_negative() { "behind" } else { "ahead of" };
    let message = format!("its clock is {seconds} s {way} the one here");
    let cure = "keep both clocks by NTP: certificates are valid from one moment to another";
    if off > BACKDATED {
        Finding::error(area, object, message + ", so new certificates are refused").with_cure(cure)
    } else if off > TOLERATED {
        Finding::warning(area, object, message).with_cure(cure)
    } else {
        Finding::ok(area, object, "its clock agrees with the one here")
    }
}

/// Parses an HTTP `Date` (RFC 9110, section 5.6.7).
pub fn http_date(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &time::format_description::well_known::Rfc2822).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Severity;

    fn severity(ahead: i64, took: i64) -> Severity {
        let asked = OffsetDateTime::UNIX_EPOCH + Duration::days(20_000);
        let reading =
            ClockReading { asked, answered: asked + Duration::seconds(took), said: asked + Duration::seconds(ahead) };
        judge_clock(CheckArea::Peers, "cluster2", &reading).severity
    }

    #[test]
    fn a_slow_answer_is_no_wrong_clock() {
        assert_eq!(severity(0, 0), Severity::Ok);
        assert_eq!(severity(-1, 0), Severity::Ok);
        assert_eq!(severity(29, 30), Severity::Ok);
        assert_eq!(severity(39, 30), Severity::Ok);
    }

    #[test]
    fn a_clock_that_is_off_is_told_and_one_that_breaks_certificates_is_an_error() {
        assert_eq!(severity(11, 0), Severity::Warning);
        assert_eq!(severity(-12, 0), Severity::Warning);
        assert_eq!(severity(301, 0), Severity::Error);
        assert_eq!(severity(-400, 1), Severity::Error);
    }

    #[test]
    fn the_date_of_an_answer_is_read() {
        let at = http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(at.unix_timestamp(), 784_111_777);
        assert_eq!(http_date("yesterday"), None);
    }
}
