//! Collects the facts of a cluster, and hands them to the judgements.

mod cluster;
mod folder;
mod installed;
mod istiod;
mod objects;
mod others;
mod peers;
mod ready;
pub mod rights;
mod secrets;

use tokio::sync::watch;

pub use cluster::{Options, cluster};
pub use folder::folder;

/// The current step, for those who wait.
pub struct Progress(watch::Sender<&'static str>);

impl Progress {
    pub fn new() -> (Progress, watch::Receiver<&'static str>) {
        let (sender, receiver) = watch::channel("");
        (Progress(sender), receiver)
    }

    fn at(&self, what: &'static str) {
        self.0.send_replace(what);
    }
}
