//! Keeps a log readable, and small, while an outsider decides how often something happens.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Limits log lines to one per key and interval, and counts the lines that are left out.
///
/// A key is a subject with lines of its own: a peer, a kind of stranger. Keys are bounded too, because a key may come
/// from outside: when more than `max_keys` of them wrote within one interval, further keys share one line per interval.
///
/// The clock is passed in. No lock is held while a line is written.
#[derive(Debug)]
pub struct CountedLog<K> {
    interval: Duration,
    max_keys: usize,
    keys: Mutex<KeyedLines<K>>,
}

#[derive(Debug)]
struct KeyedLines<K> {
    by_key: BTreeMap<K, LineCount>,
    /// Shared by the keys that found no place.
    others: LineCount,
}

#[derive(Debug, Clone, Copy, Default)]
struct LineCount {
    written: Option<Instant>,
    left_out: u64,
}

impl<K: Ord> CountedLog<K> {
    pub fn new(interval: Duration, max_keys: usize) -> CountedLog<K> {
        let keys = KeyedLines { by_key: BTreeMap::new(), others: LineCount::default() };
        CountedLog { interval, max_keys: max_keys.max(1), keys: Mutex::new(keys) }
    }

    /// Decides about one line. `Some(n)`: the line is to be written, and `n` lines before it were left out. `None`: it
    /// is left out, and counted.
    pub fn admit_line(&self, key: K, now: Instant) -> Option<u64> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let interval = self.interval;
        if let Some(line) = keys.by_key.get_mut(&key) {
            return line.admit_line(interval, now);
        }
        if keys.by_key.len() >= self.max_keys {
            keys.forget_quiet(interval, now);
        }
        if keys.by_key.len() < self.max_keys {
            keys.by_key.insert(key, LineCount { written: Some(now), left_out: 0 });
            return Some(0);
        }
        keys.others.admit_line(interval, now)
    }
}

impl<K: Ord> KeyedLines<K> {
    /// Makes room: forgets keys whose interval is over. Their counts go to the others, so that none is lost.
    fn forget_quiet(&mut self, interval: Duration, now: Instant) {
        let KeyedLines { by_key, others } = self;
        by_key.retain(|_, line| {
            let quiet = line.is_over(interval, now);
            if quiet {
                others.left_out += line.left_out;
            }
            !quiet
        });
    }
}

impl LineCount {
    fn is_over(&self, interval: Duration, now: Instant) -> bool {
        self.written.is_none_or(|written| now.saturating_duration_since(written) >= interval)
    }

    fn admit_line(&mut self, interval: Duration, now: Instant) -> Option<u64> {
        if self.is_over(interval, now) {
            self.written = Some(now);
            return Some(std::mem::take(&mut self.left_out));
        }
        self.left_out += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_key_gets_one_line_an_interval_and_the_next_line_tells_how_many_were_left_out() {
        let log = CountedLog::new(SECOND, 8);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(log.admit_line("b", at(0)), Some(0));
        for ms in 1..=500 {
            assert_eq!(log.admit_line("b", at(ms)), None);
        }
        assert_eq!(log.admit_line("b", at(999)), None);
        assert_eq!(log.admit_line("b", at(1000)), Some(501));
        assert_eq!(log.admit_line("b", at(5000)), Some(0));
    }

    #[test]
    fn a_loud_key_does_not_silence_another() {
        let log = CountedLog::new(SECOND, 8);
        let now = Instant::now();
        assert_eq!((log.admit_line("loud", now), log.admit_line("loud", now)), (Some(0), None));
        assert_eq!(log.admit_line("good", now), Some(0));
    }

    #[test]
    fn keys_beyond_the_limit_share_one_line_and_quiet_keys_make_room() {
        let log = CountedLog::new(SECOND, 4);
        let start = Instant::now();
        let lines = (0..1000).filter(|key| log.admit_line(*key, start).is_some()).count();
        assert_eq!(lines, 4 + 1);
        assert_eq!(log.keys.lock().unwrap().by_key.len(), 4);
        let later = start + SECOND;
        assert_eq!(log.admit_line(1000, later), Some(0), "the quiet keys made room");
        let lines: Vec<_> = (2000..2004).map(|key| log.admit_line(key, later)).collect();
        assert_eq!(
            lines,
            [Some(0), Some(0), Some(0), Some(995)],
            "the shared line tells what was left out of all of them"
        );
    }
}
