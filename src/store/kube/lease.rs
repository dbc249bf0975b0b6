//! Chooses the replica that writes: the holder of a Lease (coordination.k8s.io/v1), as long as it is sure to be.
//!
//! A holder that froze must find out before its next write, so its own clock decides: it holds the Lease until `LEASE`
//! after it began its last successful renewal, whatever it receives. The others count from the time when they saw the
//! last renewal, which is later. Clocks need not agree, and two never write at the same time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::content::MANAGER;
use super::error::{explain_error, explain_watch, is_expired, status_code};
use crate::store::Change;

/// The name of the Lease, in the agent's namespace.
pub const NAME: &str = "wharf";
/// Time that a holder stays the holder without a renewal.
pub const LEASE: Duration = Duration::from_secs(15);
const RENEW: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);
/// Time between the end of a holder's certainty and the end of its Lease.
const MARGIN: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(4);

/// Says whether this process is the one that writes.
#[derive(Clone)]
pub struct LeadHandle {
    leading: watch::Receiver<bool>,
    until: Arc<Mutex<Option<Instant>>>,
}

impl LeadHandle {
    /// Returns whether this process may write. Called right before each write.
    pub fn may_write(&self) -> bool {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Returns a channel that reports each change of that.
    pub fn watch_leading(&self) -> watch::Receiver<bool> {
        self.leading.clone()
    }
}

/// Strives for the Lease until it is stopped, and gives it back then.
pub struct LeaseCandidate {
    api: Api<Lease>,
    holder: String,
    leading: watch::Sender<bool>,
    until: Arc<Mutex<Option<Instant>>>,
    changes: mpsc::Sender<Change>,
    /// The Lease as it was seen last, and the time of that.
    seen: Option<(Lease, Instant)>,
    trouble: Option<String>,
}

impl LeaseCandidate {
    pub fn new(
        client: Client,
        namespace: &str,
        holder: String,
        changes: mpsc::Sender<Change>,
    ) -> (LeaseCandidate, LeadHandle) {
        let (leading, receiver) = watch::channel(false);
        let until = Arc::default();
        let lead = LeadHandle { leading: receiver, until: Arc::clone(&until) };
        let api = Api::namespaced(client, namespace);
        (LeaseCandidate { api, holder, leading, until, changes, seen: None, trouble: None }, lead)
    }

    pub async fn run(mut self, stop: CancellationToken) {
        let config = watcher::Config::default().fields(&format!("metadata.name={NAME}")).timeout(270);
        let mut events = std::pin::pin!(watcher(self.api.clone(), config));
        let mut due = Instant::now();
        let mut known = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                event = events.next() => match event {
                    Some(Ok(Event::Apply(lease) | Event::InitApply(lease))) => {
                        self.record_lease(lease);
                        known = true;
                        due = due.min(self.next_try());
                    }
                    Some(Ok(Event::InitDone)) => known = true,
                    Some(Ok(Event::Delete(_))) => {
                        self.seen = None;
                        due = Instant::now();
                    }
                    Some(Ok(Event::Init)) => {}
                    Some(Err(e)) => {
                        if !is_expired(&e) {
                            self.report_problem(Some(explain_watch(&e).0)).await;
                        }
                        tokio::select! { () = stop.cancelled() => break, () = tokio::time::sleep(RETRY) => {} }
                        // A broken watch must not keep a holder from renewing.
                        known |= *self.leading.borrow();
                    }
                    None => break,
                },
                () = tokio::time::sleep_until(due.into()), if known => due = self.renew_lease().await,
            }
        }
        self.release_lease().await;
    }

    fn is_held_here(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|s| s.holder_identity.as_ref()) == Some(&self.holder)
    }

    fn record_lease(&mut self, lease: Lease) {
        let same =
            self.seen.as_ref().is_some_and(|(old, _)| old.metadata.resource_version == lease.metadata.resource_version);
        if !same {
            self.seen = Some((lease, Instant::now()));
        }
    }

    /// Returns the time when the next step may succeed.
    fn next_try(&self) -> Instant {
        let Some((lease, at)) = &self.seen else { return Instant::now() };
        let spec = lease.spec.clone().unwrap_or_default();
        let held = spec.holder_identity.is_some_and(|h| !h.is_empty());
        if self.is_held_here(lease) {
            *at + RENEW
        } else if held {
            let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
            *at + seconds.map_or(LEASE, Duration::from_secs)
        } else {
            Instant::now()
        }
    }

    /// Takes or renews the Lease, if it may be taken. Returns the time of the next try.
    async fn renew_lease(&mut self) -> Instant {
        let free =
            self.seen.as_ref().is_none_or(|(lease, _)| self.is_held_here(lease)) || self.next_try() <= Instant::now();
        if !free {
            self.handle_lost();
            return self.next_try();
        }
        let begun = Instant::now();
        match tokio::time::timeout(PATIENCE, self.write_lease(&self.holder)).await {
            Ok(Ok(lease)) => {
                self.seen = Some((lease, begun));
                let until = Some(begun + LEASE - MARGIN);
                let before = std::mem::replace(&mut *self.until.lock().unwrap_or_else(PoisonError::into_inner), until);
                if before.is_none_or(|before| before <= begun) {
                    tracing::info!(holder = %self.holder, "this replica writes from now on");
                    // Sent even if this replica never heard that it lost the Lease: writes that it left out meanwhile
                    // are to be tried again.
                    self.leading.send_replace(true);
                }
                self.report_problem(None).await;
                begun + RENEW
            }
            Ok(Err(e)) if matches!(status_code(&e), Some(404 | 409)) => {
                // Another replica was quicker, or the Lease was removed: its present state decides.
                match tokio::time::timeout(PATIENCE, self.api.get_opt(NAME)).await {
                    Ok(Ok(Some(lease))) => self.record_lease(lease),
                    Ok(Ok(None)) => self.seen = None,
                    _ => {}
                }
                if self.seen.as_ref().is_some_and(|(lease, _)| !self.is_held_here(lease)) {
                    self.handle_lost();
                }
                self.next_try().max(Instant::now() + RETRY / 5)
            }
            Ok(Err(e)) => self.handle_failure(explain_error(&e)).await,
            Err(_) => self.handle_failure("the API server does not answer".into()).await,
        }
    }

    async fn handle_failure(&mut self, why: String) -> Instant {
        self.report_problem(Some(why)).await;
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_some_and(|until| until <= Instant::now()) {
            self.handle_lost();
        }
        Instant::now() + RETRY
    }

    fn handle_lost(&mut self) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if self.leading.send_if_modified(|leading| std::mem::replace(leading, false)) {
            tracing::warn!(holder = %self.holder, "another replica writes from now on");
        }
    }

    /// Makes `holder` the holder of the Lease as it was seen.
    async fn write_lease(&self, holder: &str) -> Result<Lease, kube::Error> {
        let before = self.seen.as_ref().map(|(lease, _)| lease);
        let old = before.and_then(|l| l.spec.clone()).unwrap_or_default();
        let now = MicroTime(Timestamp::now());
        let same = old.holder_identity.as_deref() == Some(holder);
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
            acquire_time: if same { old.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(old.lease_transitions.unwrap_or(0) + i32::from(!same && before.is_some())),
            ..LeaseSpec::default()
        };
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        match before {
            Some(lease) => {
                let lease = Lease { metadata: lease.metadata.clone(), spec: Some(spec) };
                self.api.replace(NAME, &params, &lease).await
            }
            None => {
                let labels = [(crate::api::MANAGED_BY.to_owned(), MANAGER.to_owned())].into();
                let metadata =
                    ObjectMeta { name: Some(NAME.to_owned()), labels: Some(labels), ..ObjectMeta::default() };
                self.api.create(&params, &Lease { metadata, spec: Some(spec) }).await
            }
        }
    }

    /// Gives the Lease back, so that the next holder need not wait.
    async fn release_lease(&mut self) {
        let leads = *self.leading.borrow();
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.leading.send_replace(false);
        if leads && self.seen.is_some() {
            match tokio::time::timeout(PATIENCE, self.write_lease("")).await {
                Ok(Ok(_)) => tracing::info!("the lease is given back"),
                _ => tracing::warn!("the lease could not be given back; the next holder waits for its end"),
            }
        }
    }

    async fn report_problem(&mut self, trouble: Option<String>) {
        if self.trouble == trouble {
            return;
        }
        let place = format!("API server, lease {NAME}");
        let change = match &trouble {
            Some(message) => Change::problem(place, message.clone()),
            None => Change::Solved { place },
        };
        self.trouble = trouble;
        let _ = self.changes.send(change).await; // the agent stops
    }
}
