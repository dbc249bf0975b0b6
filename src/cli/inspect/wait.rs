//! `wharf status --wait`: waits until all is ready, or the time is over.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt as _};
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::cluster::{ClusterReader, ListedObject, ViewPart, binding_view, policy_view};
use super::{confine_view, fetch_view, tables};
use crate::agent::excerpt::ViewFilter;
use crate::agent::view::{AgentView, ProblemView};
use crate::api::{RemoteServiceBinding, ServiceExpositionPolicy};
use crate::cli::output;

/// Interval between two lines of progress, and between two requests to an agent, which sends no changes by itself.
const PAUSE: Duration = Duration::from_secs(1);
/// Most objects that a line of progress names.
const NAMED: usize = 3;

/// The key of an object, and whether it is a policy.
type SeenKey = (bool, String, String);

/// Prints to stderr the objects that are waited for, whenever they change.
#[derive(Default)]
struct WaitProgress {
    told: String,
}

impl WaitProgress {
    fn print_waiting(&mut self, unready: &[String]) {
        let named: Vec<_> = unready.iter().take(NAMED).map(String::as_str).collect();
        let more = unready.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        let line = format!("waiting for {}{more}", named.join(", "));
        if !unready.is_empty() && line != self.told {
            output::print_note(&line);
            self.told = line;
        }
    }
}

/// Lists what is not ready: rows, and objects that cannot be read.
pub fn list_unready(view: &AgentView) -> Vec<String> {
    let problems = view.problems.iter().map(|p| format!("{}: {}", p.place, p.message));
    tables::list_unready(view).into_iter().chain(problems).collect()
}

/// Asks an agent repeatedly until all is ready.
pub async fn wait_for_agent(
    admin: SocketAddr,
    namespace: Option<&str>,
    patience: Duration,
) -> anyhow::Result<AgentView> {
    let deadline = Instant::now() + patience;
    let filter = ViewFilter::new(None, namespace);
    let mut progress = WaitProgress::default();
    loop {
        let answer = timeout_at(deadline, fetch_view(admin, &filter)).await;
        let late = Instant::now() + PAUSE >= deadline;
        match answer {
            Ok(Ok(view)) => {
                let view = confine_view(view, namespace);
                let unready =
                    if view.synced { list_unready(&view) } else { vec!["the agent, which is still reading".into()] };
                if unready.is_empty() || late {
                    return Ok(view);
                }
                progress.print_waiting(&unready);
            }
            Ok(Err(error)) if late => return Err(error),
            Ok(Err(error)) => progress.print_waiting(&[format!("{error:#}")]),
            Err(_) => anyhow::bail!("the agent on {admin} did not answer in time"),
        }
        sleep(PAUSE).await;
    }
}

/// Watches a cluster until all is ready.
pub async fn wait_for_cluster(cluster: &ClusterReader, patience: Duration) -> anyhow::Result<AgentView> {
    let deadline = Instant::now() + patience;
    let view = cluster.read_view(ViewPart::Status).await?; // a missing permission ends the command at once
    if list_unready(&view).is_empty() {
        return Ok(view);
    }
    let mut news = futures::stream::select(watch_kind(cluster, true), watch_kind(cluster, false));
    let mut seen = [SeenObjects::default(), SeenObjects::default()];
    let mut progress = WaitProgress::default();
    let mut tell_at = Instant::now();
    let mut last = view;
    loop {
        let unready = list_unready(&last);
        tokio::select! {
            biased;
            event = news.next() => {
                let Some((is_policy, Ok(event))) = event else { continue }; // the watch tries again
                seen[usize::from(is_policy)].handle_event(is_policy, event);
                if seen.iter().all(|s| s.whole) {
                    last = view_of(&seen);
                }
                if seen.iter().all(|s| s.whole) && self::list_unready(&last).is_empty() {
                    return Ok(last);
                }
            }
            () = sleep_until(tell_at) => {
                progress.print_waiting(&unready);
                tell_at = Instant::now() + PAUSE;
            }
            () = sleep_until(deadline) => return Ok(last),
        }
    }
}

type KindEvent = (bool, Result<Event<DynamicObject>, watcher::Error>);

fn watch_kind(cluster: &ClusterReader, is_policy: bool) -> BoxStream<'static, KindEvent> {
    let resource = match is_policy {
        true => ApiResource::erase::<ServiceExpositionPolicy>(&()),
        false => ApiResource::erase::<RemoteServiceBinding>(&()),
    };
    let api: Api<DynamicObject> = match &cluster.namespace {
        Some(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, &resource),
        None => Api::all_with(cluster.client.clone(), &resource),
    };
    let config = match &cluster.selector {
        Some(labels) => watcher::Config::default().labels(labels),
        None => watcher::Config::default(),
    };
    watcher(api, config).default_backoff().map(move |event| (is_policy, event)).boxed()
}

/// The objects of a kind, kept up to date by a watch.
#[derive(Default)]
struct SeenObjects {
    objects: BTreeMap<SeenKey, DynamicObject>,
    /// Objects of a list that is still incomplete.
    listed: BTreeMap<SeenKey, DynamicObject>,
    whole: bool,
}

impl SeenObjects {
    fn handle_event(&mut self, is_policy: bool, event: Event<DynamicObject>) {
        let key = |o: &DynamicObject| {
            let m = &o.metadata;
            (is_policy, m.namespace.clone().unwrap_or_default(), m.name.clone().unwrap_or_default())
        };
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => drop(self.listed.insert(key(&object), object)),
            Event::InitDone => {
                self.objects = std::mem::take(&mut self.listed);
                self.whole = true;
            }
            Event::Apply(object) => drop(self.objects.insert(key(&object), object)),
            Event::Delete(object) => drop(self.objects.remove(&key(&object))),
        }
    }
}

fn view_of(seen: &[SeenObjects; 2]) -> AgentView {
    let mut view = AgentView { synced: true, ..AgentView::default() };
    let mut problems: Vec<ProblemView> = Vec::new();
    for ((is_policy, ..), object) in seen.iter().flat_map(|s| &s.objects) {
        if *is_policy {
            let subject = ListedObject::from_object("ServiceExpositionPolicy", object.clone(), &mut problems);
            view.policies.push(policy_view(subject));
        } else {
            let subject = ListedObject::from_object("RemoteServiceBinding", object.clone(), &mut problems);
            view.bindings.push(binding_view(subject));
        }
    }
    view.problems = problems;
    view
}
