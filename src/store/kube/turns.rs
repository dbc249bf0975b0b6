//! Turns to write to the API server, shared fairly.
//!
//! Each tenant (`party`) has a queue of its own, and free turns go round the queues. So a burst of one tenant delays
//! another's single write by the requests that are under way, and not by all that wait.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

#[derive(Default)]
struct TurnQueues {
    free: usize,
    waiting: HashMap<String, VecDeque<oneshot::Sender<WriteTurn>>>,
    /// Parties that wait, in the order in which they are served.
    order: VecDeque<String>,
}

impl TurnQueues {
    fn next_waiting(&mut self) -> Option<oneshot::Sender<WriteTurn>> {
        let party = self.order.pop_front()?;
        let queue = self.waiting.get_mut(&party)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&party);
        } else {
            self.order.push_back(party);
        }
        next
    }
}

/// A number of turns.
#[derive(Clone)]
pub struct FairTurns(Arc<Mutex<TurnQueues>>);

/// A turn that a writer has. It goes on to the next when it is dropped.
pub struct WriteTurn {
    /// None: it was given on.
    turns: Option<FairTurns>,
}

impl FairTurns {
    pub fn new(count: usize) -> FairTurns {
        FairTurns(Arc::new(Mutex::new(TurnQueues { free: count, ..TurnQueues::default() })))
    }

    fn lock_queues(&self) -> MutexGuard<'_, TurnQueues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of free turns.
    pub fn free_turns(&self) -> usize {
        self.lock_queues().free
    }

    /// Waits for a turn. It never returns None, as the turns live as long as their waiters.
    pub async fn wait_for_turn(&self, party: &str) -> Option<WriteTurn> {
        let turn = {
            let mut queues = self.lock_queues();
            if queues.free > 0 {
                queues.free -= 1;
                return Some(WriteTurn { turns: Some(self.clone()) });
            }
            let (give, turn) = oneshot::channel();
            if !queues.waiting.contains_key(party) {
                queues.order.push_back(party.to_owned());
            }
            queues.waiting.entry(party.to_owned()).or_default().push_back(give);
            turn
        };
        turn.await.ok()
    }
}

impl Drop for WriteTurn {
    fn drop(&mut self) {
        let Some(turns) = self.turns.take() else { return };
        let mut queues = turns.lock_queues(); // from looking to counting, or somebody would wait for a turn that is free
        while let Some(next) = queues.next_waiting() {
            match next.send(WriteTurn { turns: Some(turns.clone()) }) {
                Ok(()) => return,
                Err(mut back) => back.turns = None, // whoever waited has gone
            }
        }
        queues.free += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt as _;

    use super::*;

    /// Queues up behind the only turn that there is; tells who had it, in order.
    struct Queue {
        turns: FairTurns,
        first: Option<WriteTurn>,
        served: Arc<Mutex<Vec<String>>>,
        tasks: Vec<tokio::task::JoinHandle<()>>,
    }

    impl Queue {
        async fn new() -> Queue {
            let turns = FairTurns::new(1);
            let first = turns.wait_for_turn("first").await;
            Queue { turns, first, served: Arc::default(), tasks: Vec::new() }
        }

        async fn join(&mut self, party: &str) {
            let (turns, served, party) = (self.turns.clone(), self.served.clone(), party.to_owned());
            self.tasks.push(tokio::spawn(async move {
                let _turn = turns.wait_for_turn(&party).await.unwrap();
                served.lock().unwrap().push(party);
            }));
            tokio::task::yield_now().await; // it waits in the queue now
        }

        async fn served(mut self) -> Vec<String> {
            self.first.take();
            for task in self.tasks {
                task.await.unwrap();
            }
            assert_eq!(self.turns.free_turns(), 1, "all turns are back");
            self.served.lock().unwrap().clone()
        }
    }

    #[tokio::test]
    async fn a_single_write_of_one_tenant_overtakes_the_burst_of_another() {
        let mut queue = Queue::new().await;
        for _ in 0..1000 {
            queue.join("burst").await;
        }
        queue.join("single").await;
        let served = queue.served().await;
        assert_eq!(served.len(), 1001);
        assert_eq!(served.iter().position(|party| party == "single"), Some(1));
    }

    #[tokio::test]
    async fn tenants_take_turns_and_each_is_served_in_order() {
        let mut queue = Queue::new().await;
        for party in ["a", "a", "a", "b", "c", "b"] {
            queue.join(party).await;
        }
        assert_eq!(queue.served().await, ["a", "b", "c", "a", "b", "a"]);
    }

    #[tokio::test]
    async fn a_turn_is_not_lost_with_somebody_who_gives_up() {
        let turns = FairTurns::new(1);
        let first = turns.wait_for_turn("a").await;
        for _ in 0..3 {
            let waits = turns.wait_for_turn("b");
            let mut waits = Box::pin(waits);
            assert!(waits.as_mut().now_or_never().is_none());
        } // each has given up before its turn
        let mut late = Box::pin(turns.wait_for_turn("c"));
        assert!(late.as_mut().now_or_never().is_none());
        drop(first);
        drop(late); // and this one when it had it, and did not look
        assert_eq!(turns.free_turns(), 1);
        assert!(turns.wait_for_turn("d").await.is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_more_have_a_turn_than_there_are() {
        let (turns, busy, most) = (FairTurns::new(3), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = (0..200).map(|i| {
            let (turns, busy, most) = (turns.clone(), busy.clone(), most.clone());
            tokio::spawn(async move {
                let _turn = turns.wait_for_turn(&format!("party {}", i % 7)).await.unwrap();
                most.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                busy.fetch_sub(1, Ordering::SeqCst);
            })
        });
        for task in work.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), 3);
        assert_eq!(turns.free_turns(), 3);
    }
}
