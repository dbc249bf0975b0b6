//! The tasks that HTTP/2 starts on its own, kept together, so that they end with their connection.

use std::future::Future;

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Runs the tasks of one connection.
#[derive(Clone)]
pub(super) struct ConnectionTasks {
    tracker: TaskTracker,
    cut: CancellationToken,
}

impl ConnectionTasks {
    /// Makes a runner for tasks that `tracker` waits for, and that end when the guard is dropped.
    pub(super) fn new(tracker: TaskTracker) -> (ConnectionTasks, DropGuard) {
        let cut = CancellationToken::new();
        (ConnectionTasks { tracker, cut: cut.clone() }, cut.drop_guard())
    }
}

impl<F> hyper::rt::Executor<F> for ConnectionTasks
where
    F: Future + Send + 'static,
{
    fn execute(&self, task: F) {
        let cut = self.cut.clone();
        self.tracker.spawn(async move {
            cut.run_until_cancelled(task).await;
        });
    }
}
