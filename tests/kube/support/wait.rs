//! Waiting for what one wants to see.

use std::future::Future;
use std::thread;
use std::time::{Duration, Instant};

/// No step takes so long; a machine under load may.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
/// A look takes the time of API servers, agents and the machine, so that many times as long there is none.
const RESTS: u32 = 3;
const LONGEST_REST: Duration = Duration::from_millis(500);

/// How long nobody looks after a look that began then.
fn rest(begun: Instant) -> Duration {
    (begun.elapsed() * RESTS).clamp(LOOK, LONGEST_REST)
}

/// Waits until `seen` gives something, and gives it.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, seen: impl FnMut() -> F) -> T {
    within(PATIENCE, what, seen).await
}

/// The same with another deadline.
pub async fn within<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    what: &str,
    mut seen: impl FnMut() -> F,
) -> T {
    let look = || {
        let seen = seen();
        async { seen.await.ok_or_else(String::new) }
    };
    look_until(patience, what, look).await
}

/// The same for a look that can say what is there instead: a failure shows the last one.
pub async fn until_or_show<T, F: Future<Output = Result<T, String>>>(what: &str, seen: impl FnMut() -> F) -> T {
    look_until(PATIENCE, what, seen).await
}

async fn look_until<T, F: Future<Output = Result<T, String>>>(
    patience: Duration,
    what: &str,
    mut seen: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        let begun = Instant::now();
        match seen().await {
            Ok(found) => return found,
            Err(instead) => assert!(Instant::now() < deadline, "not seen in {patience:?}: {what}\n{instead}"),
        }
        tokio::time::sleep(rest(begun)).await;
    }
}

/// Makes sure that `holds` goes on holding for a while.
pub async fn stays<F: Future<Output = bool>>(what: &str, during: Duration, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + during;
    while Instant::now() < deadline {
        let begun = Instant::now();
        assert!(holds().await, "it did not stay: {what}");
        tokio::time::sleep(rest(begun)).await;
    }
}

/// Where nothing else is to be done meanwhile.
pub fn blocking<T>(what: &str, seen: impl FnMut() -> Option<T>) -> T {
    blocking_within(PATIENCE, seen).unwrap_or_else(|| panic!("not seen in {PATIENCE:?}: {what}"))
}

pub fn blocking_within<T>(patience: Duration, mut seen: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        let begun = Instant::now();
        if let Some(found) = seen() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(rest(begun));
    }
}
