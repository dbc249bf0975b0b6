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

pub use cluster::{CheckOptions, check_cluster};
pub use folder::check_folder;

/// The current step, for those who wait.
pub struct CheckProgress(watch::Sender<&'static str>);

impl CheckProgress {
    pub fn new() -> (CheckProgress, watch::Receiver<&'static str>) {
        let (sender, receiver) = watch::channel("");
        (CheckProgress(sender), receiver)
    }

    fn set_step(&self, what: &'static str) {
        self.0.send_replace(what);
    }
}
