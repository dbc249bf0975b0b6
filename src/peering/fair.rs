//! Shares something scarce among those who ask for it, so that the holder of most is the first to lose.
//!
//! Used for handshakes in flight (shared by source address), for connections, and for the bytes that peers make the
//! agent hold (shared by peer). A newcomer is never refused in favour of earlier holders: when all is taken, the
//! heaviest holder gives up its oldest share. Under a flood the heaviest is the flooding peer; among equals it is the
//! share that is oldest, and honest work does not grow old.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// A bounded amount of something, and the share of each holder.
pub(in crate::peering) struct FairPool<K> {
    max_total: usize,
    max_per_holder: usize,
    /// A share that changed less than this long ago is not given up: its holder has had no time to use it.
    min_age: Duration,
    state: Mutex<PoolState<K>>,
}

struct PoolState<K> {
    total: usize,
    next_share: u64,
    holders: BTreeMap<K, ShareHolder>,
}

#[derive(Default)]
struct ShareHolder {
    total: usize,
    shares: BTreeMap<u64, HeldShare>,
}

struct HeldShare {
    size: usize,
    changed: Instant,
    give_up: CancellationToken,
}

/// The reason why a share cannot grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::peering) enum ShareError {
    /// Its holder would have more than one holder may.
    HolderLimit,
    /// All is taken, and nothing is old enough to be given up.
    Full,
    /// It was given up for others.
    GivenUp,
}

impl<K: Ord + Clone> FairPool<K> {
    pub(in crate::peering) fn new(max_total: usize, max_per_holder: usize, min_age: Duration) -> FairPool<K> {
        let state = PoolState { total: 0, next_share: 0, holders: BTreeMap::new() };
        let (max_total, max_per_holder) = (max_total.max(1), max_per_holder.max(1));
        FairPool { max_total, max_per_holder, min_age, state: Mutex::new(state) }
    }

    /// Takes one unit for as long as the share lives. At its limit the holder gives up its own oldest share. `give_up`
    /// tells a holder that it has to give up.
    pub(in crate::peering) fn enter_share(
        self: &Arc<Self>,
        holder: K,
        give_up: CancellationToken,
        now: Instant,
    ) -> PoolShare<K> {
        let mut state = self.lock();
        while state.holders.get(&holder).is_some_and(|h| h.total >= self.max_per_holder) {
            if !state.give_up_oldest(&holder) {
                break;
            }
        }
        let id = state.add_share(holder.clone(), 0, give_up, now);
        let _ = state.grow_share(self, &holder, id, 1, now); // its own place is the newest, and the last that is given up
        drop(state);
        PoolShare { pool: self.clone(), holder, id }
    }

    /// Makes a share without size yet.
    pub(in crate::peering) fn begin_share(self: &Arc<Self>, holder: K, give_up: CancellationToken) -> PoolShare<K> {
        let id = self.lock().add_share(holder.clone(), 0, give_up, Instant::now());
        PoolShare { pool: self.clone(), holder, id }
    }

    fn lock(&self) -> MutexGuard<'_, PoolState<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord + Clone> PoolState<K> {
    fn add_share(&mut self, holder: K, size: usize, give_up: CancellationToken, now: Instant) -> u64 {
        self.next_share += 1;
        let id = self.next_share;
        self.holders.entry(holder).or_default().shares.insert(id, HeldShare { size, changed: now, give_up });
        id
    }

    fn grow_share(&mut self, pool: &FairPool<K>, key: &K, id: u64, by: usize, now: Instant) -> Result<(), ShareError> {
        let holder = self.holders.get(key).filter(|h| h.shares.contains_key(&id)).ok_or(ShareError::GivenUp)?;
        if holder.total + by > pool.max_per_holder {
            return Err(ShareError::HolderLimit);
        }
        while self.total + by > pool.max_total {
            let heaviest = self.heaviest_holder(pool.min_age, now).ok_or(ShareError::Full)?;
            self.give_up_oldest(&heaviest);
            if heaviest == *key && !self.has_share(key, id) {
                return Err(ShareError::GivenUp);
            }
        }
        let holder = self.holders.get_mut(key).ok_or(ShareError::GivenUp)?;
        let share = holder.shares.get_mut(&id).ok_or(ShareError::GivenUp)?;
        share.size += by;
        share.changed = now;
        holder.total += by;
        self.total += by;
        Ok(())
    }

    fn has_share(&self, key: &K, id: u64) -> bool {
        self.holders.get(key).is_some_and(|holder| holder.shares.contains_key(&id))
    }

    /// Returns the holder that has most, and among equals the one whose oldest share is oldest; of those that have a
    /// share to give up.
    fn heaviest_holder(&self, min_age: Duration, now: Instant) -> Option<K> {
        let candidates = self.holders.iter().filter_map(|(key, holder)| {
            let (oldest, share) = holder.shares.iter().find(|(_, share)| share.size > 0)?;
            let ripe = now.saturating_duration_since(share.changed) >= min_age;
            ripe.then_some((holder.total, std::cmp::Reverse(*oldest), key))
        });
        candidates.max_by_key(|(total, oldest, _)| (*total, *oldest)).map(|(_, _, key)| key.clone())
    }

    /// Makes a holder give up its oldest share. False if it has none.
    fn give_up_oldest(&mut self, key: &K) -> bool {
        let shares = self.holders.get(key).map(|holder| &holder.shares);
        let Some(id) = shares.and_then(|s| s.iter().find(|(_, share)| share.size > 0).map(|(id, _)| *id)) else {
            return false;
        };
        if let Some(share) = self.remove_share(key, id) {
            share.give_up.cancel();
        }
        true
    }

    fn remove_share(&mut self, key: &K, id: u64) -> Option<HeldShare> {
        let holder = self.holders.get_mut(key)?;
        let share = holder.shares.remove(&id)?;
        holder.total -= share.size;
        self.total -= share.size;
        if holder.shares.is_empty() {
            self.holders.remove(key);
        }
        Some(share)
    }
}

/// One holder's share; free again when it is dropped.
pub(in crate::peering) struct PoolShare<K: Ord + Clone> {
    pool: Arc<FairPool<K>>,
    holder: K,
    id: u64,
}

impl<K: Ord + Clone> PoolShare<K> {
    /// Reduces its size to at most this.
    pub(in crate::peering) fn shrink_to(&self, size: usize) {
        if self.size() > size {
            let _ = self.resize(size); // what becomes smaller always can
        }
    }

    pub(in crate::peering) fn size(&self) -> usize {
        let state = self.pool.lock();
        let share = state.holders.get(&self.holder).and_then(|holder| holder.shares.get(&self.id));
        share.map_or(0, |share| share.size)
    }

    /// Makes it larger or smaller. A share that cannot grow stays as it is.
    pub(in crate::peering) fn resize(&self, size: usize) -> Result<(), ShareError> {
        let now = Instant::now();
        let mut state = self.pool.lock();
        let PoolState { total, holders, .. } = &mut *state;
        let holder = holders.get_mut(&self.holder).ok_or(ShareError::GivenUp)?;
        let share = holder.shares.get_mut(&self.id).ok_or(ShareError::GivenUp)?;
        if size > share.size {
            let by = size - share.size;
            return state.grow_share(&self.pool, &self.holder, self.id, by, now);
        }
        let less = share.size - size;
        share.size = size;
        share.changed = now;
        holder.total -= less;
        *total -= less;
        Ok(())
    }
}

impl<K: Ord + Clone> Drop for PoolShare<K> {
    fn drop(&mut self) {
        self.pool.lock().remove_share(&self.holder, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(total: usize, per_holder: usize) -> Arc<FairPool<&'static str>> {
        Arc::new(FairPool::new(total, per_holder, Duration::ZERO))
    }

    fn enter(pool: &Arc<FairPool<&'static str>>, who: &'static str) -> (PoolShare<&'static str>, CancellationToken) {
        let token = CancellationToken::new();
        (pool.enter_share(who, token.clone(), Instant::now()), token)
    }

    #[test]
    fn whoever_holds_most_gives_up_its_oldest_share_and_a_single_one_keeps_its_own() {
        let pool = pool(4, 4);
        let (_good, good) = enter(&pool, "good");
        let flood: Vec<_> = (0..100).map(|_| enter(&pool, "flood")).collect();
        let (_late, late) = enter(&pool, "late");
        assert!(!good.is_cancelled() && !late.is_cancelled());
        let lives = flood.iter().filter(|(_, token)| !token.is_cancelled()).count();
        assert_eq!(lives, 2);
        assert!(flood[..98].iter().all(|(_, token)| token.is_cancelled()), "the oldest are given up first");
    }

    #[test]
    fn a_holder_at_its_own_limit_gives_up_its_own() {
        let pool = pool(10, 2);
        let (_one, one) = enter(&pool, "one");
        let many: Vec<_> = (0..5).map(|_| enter(&pool, "many")).collect();
        assert!(!one.is_cancelled());
        let given_up: Vec<_> = many.iter().map(|(_, token)| token.is_cancelled()).collect();
        assert_eq!(given_up, [true, true, true, false, false]);
    }

    #[test]
    fn among_equals_the_oldest_gives_up() {
        let pool = pool(3, 3);
        let all: Vec<_> = ["a", "b", "c", "d"].into_iter().map(|who| enter(&pool, who)).collect();
        let given_up: Vec<_> = all.iter().map(|(_, token)| token.is_cancelled()).collect();
        assert_eq!(given_up, [true, false, false, false]);
    }

    #[test]
    fn bytes_are_bounded_for_each_and_in_all_and_free_again_when_a_share_ends() {
        let pool = pool(100, 40);
        let token = CancellationToken::new();
        let small = pool.begin_share("small", token.clone());
        small.resize(10).unwrap();
        let greedy: Vec<_> = ["x", "y", "z"].map(|who| pool.begin_share(who, CancellationToken::new())).into();
        assert_eq!(greedy[0].resize(41), Err(ShareError::HolderLimit));
        greedy[0].resize(40).unwrap();
        greedy[1].resize(40).unwrap();
        greedy[2].resize(30).unwrap();
        assert!(!token.is_cancelled());
        assert_eq!(greedy[0].resize(5), Err(ShareError::GivenUp), "the heaviest, and the first of two");
        small.resize(20).unwrap();
        drop(greedy);
        assert_eq!(pool.lock().total, 20);
        drop(small);
        assert!(pool.lock().holders.is_empty());
    }

    #[test]
    fn what_is_fresh_is_not_given_up() {
        let pool = Arc::new(FairPool::new(10, 10, Duration::from_secs(3600)));
        let first = pool.begin_share("first", CancellationToken::new());
        first.resize(10).unwrap();
        let second = pool.begin_share("second", CancellationToken::new());
        assert_eq!(second.resize(1), Err(ShareError::Full));
        first.resize(9).unwrap();
        second.resize(1).unwrap();
    }
}
