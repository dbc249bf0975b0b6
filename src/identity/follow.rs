//! An identity in force, which follows its source: the last good one, and the problem of a later one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{CertificateProblem, Identity, IdentityBundle, IdentityError, MissingIdentity, format_moment};

/// Longest time between two looks at the clock: a suspended machine's timers stand still.
const LONGEST_SLEEP: Duration = Duration::from_secs(24 * 3600);

/// An identity that follows its source.
#[derive(Debug)]
pub struct IdentityWatch {
    /// The last good one.
    pub identity: watch::Receiver<Arc<Identity>>,
    /// The problem of a newer identity that is not in force, or of one in force that has expired. None: all is well.
    pub problem: watch::Receiver<Option<String>>,
    tasks: Vec<JoinHandle<()>>,
}

impl IdentityWatch {
    /// Adds a task that it depends on, and that ends with it.
    pub fn along_with(mut self, task: JoinHandle<()>) -> IdentityWatch {
        self.tasks.push(task);
        self
    }

    /// Waits for the watching tasks, which end when the watch is cancelled.
    pub async fn wait_until_stopped(self) {
        for task in self.tasks {
            if let Err(e) = task.await
                && e.is_panic()
            {
                std::panic::resume_unwind(e.into_panic());
            }
        }
    }
}

/// A delivery: a bundle, or the reason why there is none.
pub type BundleDelivery = Result<Arc<IdentityBundle>, MissingIdentity>;

/// Waits for the first good bundle, then follows the deliveries until `cancel`. Problems are sent to `problem`, also
/// meanwhile. None if it was cancelled before. Needs a Tokio runtime.
pub async fn watch_bundles(
    bundles: watch::Receiver<BundleDelivery>,
    problem: watch::Sender<Option<String>>,
    cancel: CancellationToken,
) -> Option<IdentityWatch> {
    let mut source = DeliveredBundles(bundles);
    loop {
        let error = match source.load_identity().await {
            Ok(identity) => return Some(follow_source(source, identity, problem, cancel)),
            Err(error) => error,
        };
        report_problem(&problem, Some(format!("{error}; the agent waits for it")));
        let again = valid_from(&error).map_or(LONGEST_SLEEP, time_until);
        tokio::select! {
            () = cancel.cancelled() => return None,
            () = source.wait_for_change() => {}
            () = tokio::time::sleep(again) => {}
        }
    }
}

/// Delivered bundles as a source of identities.
struct DeliveredBundles(watch::Receiver<BundleDelivery>);

impl IdentitySource for DeliveredBundles {
    async fn wait_for_change(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await; // nobody delivers any more
        }
    }

    async fn load_identity(&mut self) -> Result<Identity, IdentityError> {
        let delivery = self.0.borrow_and_update().clone();
        Identity::of_bundle(&*delivery?, OffsetDateTime::now_utc())
    }
}

/// A source of identities.
pub(super) trait IdentitySource: Send + 'static {
    /// Waits until there may be something new.
    fn wait_for_change(&mut self) -> impl Future<Output = ()> + Send;

    fn load_identity(&mut self) -> impl Future<Output = Result<Identity, IdentityError>> + Send;
}

/// Follows a source from a first good identity on, until `cancel`.
pub(super) fn follow_source(
    source: impl IdentitySource,
    identity: Identity,
    problem: watch::Sender<Option<String>>,
    cancel: CancellationToken,
) -> IdentityWatch {
    report_problem(&problem, identity.revocation_caveat(OffsetDateTime::now_utc()));
    let (publish, receiver) = watch::channel(Arc::new(identity));
    let told = problem.subscribe();
    let follower = IdentityFollower { source, identity: publish, problem };
    let task = tokio::spawn(async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = follower.run() => {}
        }
    });
    IdentityWatch { identity: receiver, problem: told, tasks: vec![task] }
}

struct IdentityFollower<S> {
    source: S,
    identity: watch::Sender<Arc<Identity>>,
    problem: watch::Sender<Option<String>>,
}

impl<S: IdentitySource> IdentityFollower<S> {
    async fn run(mut self) {
        let mut due = self.identity.borrow().next_due(OffsetDateTime::now_utc());
        loop {
            tokio::select! {
                () = self.source.wait_for_change() => {}
                () = tokio::time::sleep(time_until(due)) => {}
            }
            due = match self.source.load_identity().await {
                Ok(identity) => self.accept_identity(identity),
                Err(e) => self.keep_identity(&e),
            };
        }
    }

    /// Puts an identity into force. Returns when to look again although nothing changed.
    fn accept_identity(&self, identity: Identity) -> OffsetDateTime {
        let now = OffsetDateTime::now_utc();
        let (due, caveat) = (identity.next_due(now), identity.revocation_caveat(now));
        let renewed = self.identity.send_if_modified(|current| {
            let differs = **current != identity;
            if differs {
                *current = Arc::new(identity);
            }
            differs
        });
        if renewed {
            let now = self.identity.borrow();
            let (serial, until) = (&now.serial, format_moment(now.not_after));
            tracing::info!(identity = %now.spiffe_id, %serial, not_after = %until, "identity renewed");
        }
        report_problem(&self.problem, caveat);
        due
    }

    /// Keeps the identity in force. Returns when to look again although nothing changed.
    fn keep_identity(&self, error: &IdentityError) -> OffsetDateTime {
        let in_force = self.identity.borrow().not_after;
        let now = OffsetDateTime::now_utc();
        let consequence = if in_force > now {
            format!("the identity that was loaded before stays in force, until {}", format_moment(in_force))
        } else {
            format!("the identity in force expired on {}: peers refuse it", format_moment(in_force))
        };
        report_problem(&self.problem, Some(format!("{error}; {consequence}")));
        match valid_from(error) {
            Some(not_before) => not_before,
            _ if in_force > now => in_force,
            _ => now + LONGEST_SLEEP,
        }
    }
}

/// Returns the time when a refused identity becomes good by itself.
fn valid_from(error: &IdentityError) -> Option<OffsetDateTime> {
    match error {
        IdentityError::Certificate { problem: CertificateProblem::NotYetValid { not_before, .. }, .. } => {
            Some(*not_before)
        }
        _ => None,
    }
}

fn report_problem(problem: &watch::Sender<Option<String>>, now: Option<String>) {
    problem.send_if_modified(|current| {
        if *current == now {
            return false;
        }
        match &now {
            Some(text) => tracing::warn!(problem = %text, "identity"),
            None => tracing::info!("the identity is good again"),
        }
        *current = now;
        true
    });
}

/// Returns the time to sleep until shortly after `due`.
fn time_until(due: OffsetDateTime) -> Duration {
    let left = due - OffsetDateTime::now_utc();
    // Dates of certificates have whole seconds and include the last one.
    Duration::try_from(left).unwrap_or_default().saturating_add(Duration::from_secs(1)).min(LONGEST_SLEEP)
}
