//! Gateways that refuse what istiod sends them.
//!
//! Envoy takes or refuses a whole update: one route that it cannot load, and no other change of routes arrives either, a
//! permission that is withdrawn included. The status of a policy says that its objects are in place, and nothing of the
//! gateway. Istiod counts what proxies refuse, and is asked for that on its monitoring port
//! (docs/decisions/0011-gateways-that-refuse.md).
//!
//! | part | does |
//! |---|---|
//! | [`metrics_text`] | text of metrics, in pieces, to the few numbers that matter; pure |
//! | [`refusals`] | those numbers, one look after the other, to which gateway refuses what; pure |
//! | [`fetch`] | the text over HTTP, bounded in time and size |
//! | [`tell`] | what people read of it: conditions, problems |

pub mod fetch;
pub mod metrics_text;
pub mod refusals;
pub mod tell;

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::metrics_text::GatewayPods;
use self::refusals::{GatewayRefusals, RefusalHistory};
use crate::config::IstiodMetrics;

/// How long conditions of an earlier process hold while istiod does not answer.
const STALE: Duration = Duration::from_secs(300);

/// What istiod says of the gateways, as far as it could be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayWatch {
    /// None: it has not been asked with success yet.
    pub refusals: Option<GatewayRefusals>,
    /// Why the last question had no answer. None: it had one, or nothing was asked yet.
    pub unanswered: Option<String>,
    /// Whether there was a question at all.
    pub asked: bool,
}

/// Asks istiod again and again until `stop`.
pub async fn watch_gateways(
    metrics: IstiodMetrics,
    pods: GatewayPods,
    news: watch::Sender<GatewayWatch>,
    stop: CancellationToken,
) {
    let begun = Instant::now();
    let mut history = RefusalHistory::default();
    let mut tick = tokio::time::interval(metrics.interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let answers = tokio::select! {
            () = stop.cancelled() => return,
            answers = fetch::fetch_metrics(&metrics, &pods) => answers,
        };
        let mut unanswered = None;
        let mut answered = false;
        match answers {
            Err(why) => unanswered = Some(why.to_string()),
            Ok(answers) => {
                for answer in answers {
                    match answer {
                        Ok(sample) => {
                            history.take(sample, begun.elapsed());
                            answered = true;
                        }
                        Err(why) => unanswered = Some(why.to_string()),
                    }
                }
            }
        }
        if let Some(why) = &unanswered {
            tracing::debug!(url = %metrics, %why, "istiod's metrics cannot be read");
        }
        news.send_if_modified(|watch| {
            let before = watch.clone();
            watch.asked = true;
            watch.unanswered = unanswered;
            if answered || watch.refusals.is_some() || begun.elapsed() > STALE {
                watch.refusals = Some(history.refusals(begun.elapsed()));
            }
            *watch != before
        });
    }
}
