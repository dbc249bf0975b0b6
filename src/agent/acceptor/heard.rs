//! Takes in what peers offer, and marks the local names that it affects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{AcceptorSide, FetchState, OfferPlacement, PeerExposition, PeerOffers, UnfitReason};
use crate::agent::pace::CauseKind;
use crate::model::{ClusterFacts, ClusterName, Exposition, ExpositionKey};
use crate::translate::MissingExposition;

/// The result of taking in an offer.
#[derive(Debug, PartialEq, Eq)]
pub enum OfferEffect {
    Same,
    /// The offer is new, and kept whole or without its content.
    News,
    /// The offer is not kept: there is no room.
    LeftOut,
    /// A binding uses the offer, and there is no room. The text says why it cannot be used.
    NoRoom(String),
}

impl AcceptorSide {
    /// Takes in an exposition that a peer offers now.
    pub fn add_offer(
        &mut self,
        cluster: &ClusterName,
        key: &ExpositionKey,
        version: &str,
        exposition: Arc<Exposition>,
    ) -> OfferEffect {
        let offers = self.offers.entry(cluster.clone()).or_default();
        if let Some(known) = offers.get(key)
            && *known.version == *version
            && known.exposition() == Some(&exposition)
            && known.rejected.is_none()
        {
            return OfferEffect::Same;
        }
        let (budget, users) = (self.budget, &self.users);
        let is_used = |key: &ExpositionKey| users.contains_key(&(cluster.clone(), key.clone()));
        let mut gone = Vec::new();
        let placed = offers.place_offer(key, version, exposition, budget, is_used, &mut gone);
        self.made_room.extend(gone.into_iter().map(|key| (cluster.clone(), key)));
        match placed {
            OfferPlacement::Full | OfferPlacement::Summary => {
                self.asked.remove(&(cluster.clone(), key.clone()));
                self.touch_users(cluster, key, CauseKind::Change);
                OfferEffect::News
            }
            OfferPlacement::LeftOut => {
                offers.tally.left_out += 1;
                OfferEffect::LeftOut
            }
            OfferPlacement::NoRoom => OfferEffect::NoRoom(format!(
                "there is no room for it: what bindings use of {cluster} takes more than {budget} bytes; bind less of it, or \
                 raise limits.peerBytes"
            )),
        }
    }

    /// Counts an exposition that is not held: the peer offers more than there is room for.
    pub fn count_left_out(&mut self, cluster: &ClusterName) {
        self.offers.entry(cluster.clone()).or_default().tally.left_out += 1;
    }

    /// Notes that a peer offers something that is not fit to be used.
    pub fn reject_offer(&mut self, cluster: &ClusterName, key: &ExpositionKey, why: UnfitReason) {
        let used = self.users.contains_key(&(cluster.clone(), key.clone()));
        if self.offers.entry(cluster.clone()).or_default().reject_offer(key, why, used) {
            self.touch_users(cluster, key, CauseKind::Change);
        }
    }

    /// Removes an exposition that a peer does not offer any more.
    pub fn withdraw_offer(&mut self, cluster: &ClusterName, key: &ExpositionKey) -> bool {
        let known = self.offers.get_mut(cluster).is_some_and(|o| o.withdraw_offer(key));
        if known {
            self.touch_users(cluster, key, CauseKind::Withdrawal);
        }
        known
    }

    /// Prepares for a new stream of the peer.
    pub fn begin_stream(&mut self, cluster: &ClusterName) {
        self.offers.entry(cluster.clone()).or_default().begin_stream();
        for (_, state) in self.asked.iter_mut().filter(|((c, _), _)| c == cluster) {
            if *state == FetchState::Wanted {
                *state = FetchState::Underway;
            }
        }
    }

    /// Notes that the peer has sent all that it offers.
    pub fn handle_in_step(&mut self, cluster: &ClusterName) {
        let offers = self.offers.entry(cluster.clone()).or_default();
        offers.misbehaving = false;
        let first = !std::mem::replace(&mut offers.synced, true);
        let mut touched = offers.drop_unconfirmed();
        for ((_, key), state) in self.asked.iter_mut().filter(|((c, _), _)| c == cluster) {
            if *state == FetchState::Underway {
                *state = FetchState::Missed;
                touched.push(key.clone());
            }
        }
        touched.iter().for_each(|key| self.touch_users(cluster, key, CauseKind::Withdrawal));
        if first {
            self.touch_peer(cluster); // what is not here now is known not to be offered
        }
    }

    fn touch_users(&mut self, cluster: &ClusterName, key: &ExpositionKey, kind: CauseKind) {
        let user = (cluster.clone(), key.clone());
        for name in self.users.get(&user).into_iter().flatten() {
            self.unnoted.insert(name.clone());
            if self.paced.touch_name(name, cluster, kind, self.dirty.contains(name)) {
                self.dirty.push(name.clone());
            }
        }
        self.untold.insert(user);
    }

    /// Sets the budget of each peer, in bytes.
    pub fn set_budget(&mut self, bytes: usize) {
        if std::mem::replace(&mut self.budget, bytes) <= bytes {
            return;
        }
        let users = &self.users;
        for (cluster, offers) in &mut self.offers {
            let is_used = |key: &ExpositionKey| users.contains_key(&(cluster.clone(), key.clone()));
            let mut gone = Vec::new();
            offers.shrink_to(bytes, is_used, &mut gone);
            self.made_room.extend(gone.into_iter().map(|key| (cluster.clone(), key)));
        }
    }

    /// Returns the bytes that are left of a peer's budget.
    pub fn bytes_left(&self, cluster: &ClusterName) -> usize {
        self.budget.saturating_sub(self.offers.get(cluster).map_or(0, PeerOffers::held_bytes))
    }

    /// Returns names that were dropped since the last call, to make room.
    pub fn drain_made_room(&mut self) -> Vec<PeerExposition> {
        std::mem::take(&mut self.made_room)
    }

    /// Returns names that lost their content since the last call.
    pub fn drain_dropped(&mut self) -> Vec<PeerExposition> {
        let mut dropped = Vec::new();
        for (cluster, offers) in &mut self.offers {
            dropped.extend(offers.drain_dropped().into_iter().map(|key| (cluster.clone(), key)));
        }
        dropped
    }

    /// Returns expositions whose use by bindings changed since the last call, and whether they are used now.
    pub fn drain_use_changes(&mut self) -> Vec<(PeerExposition, bool)> {
        let changed = std::mem::take(&mut self.use_changes);
        changed
            .into_iter()
            .map(|user| (self.users.contains_key(&user), user))
            .map(|(used, user)| (user, used))
            .collect()
    }

    /// Returns expositions whose content must be requested again, since the last call.
    pub fn drain_fetches(&mut self) -> BTreeSet<PeerExposition> {
        std::mem::take(&mut self.fetches)
    }

    pub(super) fn find_exposition(
        &self,
        cluster: &ClusterName,
        key: &ExpositionKey,
        facts: &ClusterFacts,
    ) -> Result<Arc<Exposition>, MissingExposition> {
        if facts.peers.get(cluster).is_none_or(|p| p.endpoint.is_none()) {
            return Err(MissingExposition::PeerUnknown);
        }
        let Some(offers) = self.offers.get(cluster) else {
            return Err(MissingExposition::PeerUnreachable("it was not heard of yet".into()));
        };
        if let Some(exposition) = offers.get(key).and_then(|o| o.exposition()) {
            return Ok(exposition.clone());
        }
        if let Some(unfit) = offers.rejection_of(key) {
            return Err(MissingExposition::Rejected(unfit.why.clone()));
        }
        Err(match (&offers.refused, offers.synced, &offers.unreachable) {
            (Some(why), ..) => MissingExposition::NotPermitted(why.clone()),
            (None, _, why) if self.is_to_fetch(cluster, key) => MissingExposition::PeerUnreachable(
                why.clone().unwrap_or_else(|| "what it offers under this name is asked for again".into()),
            ),
            (None, true, _) => MissingExposition::NotExposed,
            (None, false, why) => {
                MissingExposition::PeerUnreachable(why.clone().unwrap_or_else(|| "connecting".into()))
            }
        })
    }

    /// Returns whether the content of an exposition can be had by requesting it again: it is held without content, or
    /// is not held although the donor may have offered it. The latter is requested only once.
    pub(super) fn is_to_fetch(&self, cluster: &ClusterName, key: &ExpositionKey) -> bool {
        let Some(offers) = self.offers.get(cluster) else { return false };
        if offers.rejection_of(key).is_some() || offers.refused.is_some() {
            return false;
        }
        match (offers.get(key), self.asked.get(&(cluster.clone(), key.clone()))) {
            (Some(offer), _) => offer.exposition().is_none(),
            (None, Some(state)) => *state != FetchState::Missed,
            (None, None) => offers.tally.left_out > 0,
        }
    }

    /// Returns the held expositions of a peer, with their versions.
    pub fn held_versions(&self, cluster: &ClusterName) -> BTreeMap<ExpositionKey, String> {
        self.offers.get(cluster).map(PeerOffers::held_versions).unwrap_or_default()
    }

    /// Returns the expositions of a peer that bindings use.
    pub fn used_expositions(&self, cluster: &ClusterName) -> Vec<ExpositionKey> {
        self.users.keys().filter(|(c, _)| c == cluster).map(|(_, key)| key.clone()).collect()
    }

    /// Returns the expositions of a peer that are in force, as far as their content is held.
    pub fn in_force(&self, cluster: &ClusterName) -> Vec<Arc<Exposition>> {
        let known = self.offers.get(cluster).into_iter().flat_map(PeerOffers::known_offers);
        known.filter_map(|(_, offer)| offer.exposition().cloned()).collect()
    }

    /// Withdraws an exposition that is no longer fit to be used, so that nothing of it stays in force.
    pub fn revoke_offer(&mut self, cluster: &ClusterName, key: &ExpositionKey, why: UnfitReason) {
        self.withdraw_offer(cluster, key);
        self.reject_offer(cluster, key, why);
        let users = self.users.get(&(cluster.clone(), key.clone())).cloned();
        self.mark_names(users.unwrap_or_default()); // this cluster's own judgement is not delayed
    }

    /// Forgets the offers of a peer that is no longer dialled. Returns their keys.
    pub fn drop_peer(&mut self, cluster: &ClusterName) -> Vec<ExpositionKey> {
        self.touch_peer(cluster);
        self.asked.retain(|(c, _), _| c != cluster);
        self.offers.remove(cluster).map(PeerOffers::into_keys).unwrap_or_default()
    }
}
