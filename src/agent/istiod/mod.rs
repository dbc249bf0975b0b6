//! Detects gateways that refuse what istiod sends them.
//!
//! Envoy accepts or refuses a whole update. One route that it cannot load keeps out all other changes of routes,
//! including the withdrawal of a permission. The status of a policy shows that its objects are in place, and nothing
//! about the gateway. Istiod counts the updates that proxies refuse, and its monitoring port shows the counters
//! (docs/decisions/0011-gateways-that-refuse.md).
//!
//! | part | does |
//! |---|---|
//! | [`metrics_text`] | parses the text of metrics, in pieces; keeps the few numbers that matter; pure |
//! | [`refusals`] | derives from those numbers, one look after the other, which gateway refuses what; pure |
//! | [`fetch`] | reads the text over HTTP, bounded in time and size |
//! | [`tell`] | formats the conditions and problems that people read |

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

/// Time for which conditions of an earlier process hold while istiod does not answer.
const STALE: Duration = Duration::from_secs(300);

/// Istiod's report on the gateways, as far as it could be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayWatch {
    /// None: it has not answered yet.
    pub refusals: Option<GatewayRefusals>,
    /// The reason why the last question had no answer. None: it had one, or nothing was asked yet.
    pub unanswered: Option<String>,
    /// A question was asked.
    pub asked: bool,
}

/// Asks istiod at intervals until `stop`.
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
                            history.add_sample(sample, begun.elapsed());
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
                watch.refusals = Some(history.combined_refusals(begun.elapsed()));
            }
            *watch != before
        });
    }
}
