//! Holds one donor's offers, within its budget of bytes. Pure.
//!
//! Offers that a binding uses are held whole. Others are held whole while the budget lasts, then without their content,
//! and then not at all. The donor sends again what is missing here, if a new stream does not mention it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Address, ExposedPort, Exposition, ExpositionKey, Protocol, TlsMode};
use crate::peering::clean_prose;
use crate::peering::limits::{MAX_REJECTED_NAMES, MAX_REJECTION};
use crate::translate;

/// Ports that are kept of an exposition without its content.
const SUMMARY_PORTS: usize = 8;
/// Memory of an allocation with its header and the counters of an `Arc`.
const ALLOCATION: usize = 32;

/// The last offers of a peer.
#[derive(Default)]
pub struct PeerOffers {
    known: BTreeMap<ExpositionKey, HeldOffer>,
    /// Names without any usable version: what the peer has under them is not fit to be used.
    refusals: BTreeMap<ExpositionKey, RefusedName>,
    /// Memory of `known`.
    bytes: usize,
    /// There may be contents, or names, that no binding uses. If not, a search for them is useless.
    has_contents: bool,
    has_names: bool,
    /// Names whose content made room for others, since they were last reported.
    dropped: Vec<ExpositionKey>,
    pub tally: OfferTally,
    /// The peer has sent all that it offers since this process started, so what is not here is not offered.
    pub synced: bool,
    /// The reason why the peer refuses this cluster, if it does.
    pub refused: Option<String>,
    /// The reason why the peer cannot be reached, if it cannot.
    pub unreachable: Option<String>,
    /// This end closed the last stream for misbehaviour, and the peer was not in step since.
    pub misbehaving: bool,
    pub connected: bool,
    /// The peer was connected until a moment ago, and may return soon: bindings do not report yet that it is away.
    pub missed: bool,
}

/// Counters since the beginning of the stream, of what is not held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OfferTally {
    pub rejected: u64,
    /// Offers that are fit to be used, and not held: the peer offers too much.
    pub left_out: u64,
}

pub struct HeldOffer {
    pub version: Arc<str>,
    pub content: OfferContent,
    /// The reason why the newest version is not fit to be used. The last good version stays in force.
    pub rejected: Option<Box<UnfitReason>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OfferContent {
    Full(Arc<Exposition>),
    /// The details by which people choose. The rest is requested again when a binding wants it.
    Summary(Box<OfferSummary>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferSummary {
    pub tls: TlsMode,
    /// At most [`SUMMARY_PORTS`].
    pub ports: Box<[(u16, Protocol)]>,
    pub more_ports: bool,
}

struct RefusedName {
    why: Box<UnfitReason>,
    /// The current stream reported it.
    confirmed: bool,
}

/// The reason why an exposition is not fit to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfitReason {
    pub why: String,
    /// The reason as the donor may read it.
    pub told: String,
}

impl From<String> for UnfitReason {
    fn from(why: String) -> UnfitReason {
        UnfitReason { told: why.clone(), why }
    }
}

impl From<translate::ExpositionRefusal> for UnfitReason {
    fn from(rejection: translate::ExpositionRefusal) -> UnfitReason {
        UnfitReason { why: rejection.to_string(), told: rejection.for_donor() }
    }
}

impl UnfitReason {
    fn into_bounded(self) -> Box<UnfitReason> {
        Box::new(UnfitReason {
            why: clean_prose(&self.why, MAX_REJECTION),
            told: clean_prose(&self.told, MAX_REJECTION),
        })
    }

    fn memory_bytes(&self) -> usize {
        self.why.len() + self.told.len() + 3 * ALLOCATION
    }
}

/// The form in which an offer is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfferPlacement {
    Full,
    Summary,
    LeftOut,
    /// A binding uses the offer, and there is no room even without all others.
    NoRoom,
}

impl OfferSummary {
    fn from_exposition(e: &Exposition) -> OfferSummary {
        let ports = e.ports.iter().take(SUMMARY_PORTS).map(|p| (p.number, p.protocol)).collect();
        OfferSummary { tls: e.tls, ports, more_ports: e.ports.len() > SUMMARY_PORTS }
    }
}

impl HeldOffer {
    pub fn exposition(&self) -> Option<&Arc<Exposition>> {
        match &self.content {
            OfferContent::Full(exposition) => Some(exposition),
            OfferContent::Summary(_) => None,
        }
    }

    pub fn to_summary(&self) -> OfferSummary {
        match &self.content {
            OfferContent::Full(exposition) => OfferSummary::from_exposition(exposition),
            OfferContent::Summary(summary) => (**summary).clone(),
        }
    }

    /// Returns the number of its port, if it has only one.
    pub fn only_port(&self) -> Option<u16> {
        match &self.content {
            OfferContent::Full(e) if e.ports.len() == 1 => e.ports.first().map(|p| p.number),
            OfferContent::Summary(s) if s.ports.len() == 1 => s.ports.first().map(|(number, _)| *number),
            _ => None,
        }
    }

    fn memory_bytes(&self, key: &ExpositionKey) -> usize {
        let content = match &self.content {
            OfferContent::Full(exposition) => exposition_bytes(exposition),
            OfferContent::Summary(summary) => summary_bytes(summary.ports.len()),
        };
        name_bytes(key, &self.version) + content + self.rejected.as_ref().map_or(0, |r| r.memory_bytes())
    }
}

impl PeerOffers {
    pub fn get(&self, key: &ExpositionKey) -> Option<&HeldOffer> {
        self.known.get(key)
    }

    pub fn known_offers(&self) -> impl Iterator<Item = (&ExpositionKey, &HeldOffer)> {
        self.known.iter()
    }

    /// Returns the number of held expositions that are fit to be used.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn held_bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the reason why a name cannot be used, held or not.
    pub fn rejection_of(&self, key: &ExpositionKey) -> Option<&UnfitReason> {
        let held = self.known.get(key).and_then(|o| o.rejected.as_deref());
        held.or_else(|| self.refusals.get(key).map(|r| &*r.why))
    }

    /// Returns the names without any usable version, with the reason.
    pub fn refused_names(&self) -> impl Iterator<Item = (&ExpositionKey, &UnfitReason)> {
        self.refusals.iter().map(|(key, r)| (key, &*r.why))
    }

    /// Returns the reasons why names cannot be used, held or not.
    pub fn all_rejections(&self) -> impl Iterator<Item = &UnfitReason> {
        self.known.values().filter_map(|o| o.rejected.as_deref()).chain(self.refusals.values().map(|r| &*r.why))
    }

    /// Keeps an exposition, as the budget allows. Fills `gone` with the names that had to make room.
    pub fn place_offer(
        &mut self,
        key: &ExpositionKey,
        version: &str,
        exposition: Arc<Exposition>,
        budget: usize,
        is_used: impl Fn(&ExpositionKey) -> bool,
        gone: &mut Vec<ExpositionKey>,
    ) -> OfferPlacement {
        let (name, content) = (name_bytes(key, version), exposition_bytes(&exposition));
        let before = self.known.get(key).map_or(0, |o| o.memory_bytes(key));
        let used = is_used(key);
        let others = self.bytes - before;
        let (whole, short) = (name + content, name + summary_bytes(exposition.ports.len()));
        // This name replaces contents of others. Names of others are dropped only for an exposition that a binding
        // uses.
        if used {
            self.make_room((others + whole).saturating_sub(budget), key, &is_used, Some(gone));
        } else if others + whole > budget {
            self.make_room((others + short).saturating_sub(budget), key, &is_used, None);
        }
        let room = (budget + before).saturating_sub(self.bytes);
        let content = if whole <= room {
            OfferContent::Full(exposition)
        } else if used {
            return OfferPlacement::NoRoom;
        } else if short <= room {
            OfferContent::Summary(Box::new(OfferSummary::from_exposition(&exposition)))
        } else {
            self.remove(key);
            return OfferPlacement::LeftOut;
        };
        let placed =
            if matches!(content, OfferContent::Full(_)) { OfferPlacement::Full } else { OfferPlacement::Summary };
        self.refusals.remove(key);
        self.remove(key);
        self.insert(key.clone(), HeldOffer { version: version.into(), content, rejected: None });
        if !used {
            self.has_contents |= placed == OfferPlacement::Full;
            self.has_names = true;
        }
        placed
    }

    /// Shrinks what is held to a smaller budget, as far as no binding uses it.
    pub fn shrink_to(
        &mut self,
        budget: usize,
        is_used: impl Fn(&ExpositionKey) -> bool,
        gone: &mut Vec<ExpositionKey>,
    ) {
        self.mark_maybe_unused();
        self.free_memory(self.bytes.saturating_sub(budget), None, &is_used, Some(gone));
    }

    /// Returns names that lost their content since the last call.
    pub fn drain_dropped(&mut self) -> Vec<ExpositionKey> {
        std::mem::take(&mut self.dropped)
    }

    /// Notes that some names may have become unused.
    pub fn mark_maybe_unused(&mut self) {
        (self.has_contents, self.has_names) = (true, true);
    }

    fn make_room(
        &mut self,
        bytes: usize,
        key: &ExpositionKey,
        is_used: &impl Fn(&ExpositionKey) -> bool,
        gone: Option<&mut Vec<ExpositionKey>>,
    ) {
        if self.has_contents || (gone.is_some() && self.has_names) {
            self.free_memory(bytes, Some(key), is_used, gone);
        }
    }

    /// Frees memory that no binding uses: contents first, then names if that is allowed.
    fn free_memory(
        &mut self,
        bytes: usize,
        but: Option<&ExpositionKey>,
        is_used: &impl Fn(&ExpositionKey) -> bool,
        gone: Option<&mut Vec<ExpositionKey>>,
    ) {
        if bytes == 0 {
            return;
        }
        let target = self.bytes.saturating_sub(bytes);
        let unused = |key: &&ExpositionKey| Some(*key) != but && !is_used(key);
        let candidates: Vec<ExpositionKey> = self.known.keys().filter(unused).cloned().collect();
        for key in &candidates {
            if self.bytes <= target {
                return;
            }
            if let Some(mut offer) = self.remove(key) {
                if offer.exposition().is_some() {
                    self.dropped.push(key.clone());
                }
                offer.content = OfferContent::Summary(Box::new(offer.to_summary()));
                self.insert(key.clone(), offer);
            }
        }
        self.has_contents = false;
        let Some(gone) = gone else { return };
        for key in candidates {
            if self.bytes <= target {
                return;
            }
            self.remove(&key);
            self.tally.left_out += 1;
            gone.push(key);
        }
        self.has_names = false;
    }

    fn insert(&mut self, key: ExpositionKey, offer: HeldOffer) {
        self.bytes += offer.memory_bytes(&key);
        self.known.insert(key, offer);
    }

    fn remove(&mut self, key: &ExpositionKey) -> Option<HeldOffer> {
        let offer = self.known.remove(key)?;
        self.bytes -= offer.memory_bytes(key);
        Some(offer)
    }

    /// Removes an exposition that the peer does not offer any more. Returns whether anything was known of it.
    pub fn withdraw_offer(&mut self, key: &ExpositionKey) -> bool {
        let refused = self.refusals.remove(key).is_some();
        self.remove(key).is_some() || refused
    }

    /// Notes that what the peer has under this name is not fit to be used. Of names that are not held, and that no
    /// binding uses, only some are kept. Returns whether this one is.
    pub fn reject_offer(&mut self, key: &ExpositionKey, why: UnfitReason, used: bool) -> bool {
        self.tally.rejected += 1;
        let why = why.into_bounded();
        if let Some(mut offer) = self.remove(key) {
            offer.rejected = Some(why);
            self.insert(key.clone(), offer);
            return true;
        }
        let room = used || self.refusals.len() < MAX_REJECTED_NAMES || self.refusals.contains_key(key);
        if room {
            self.refusals.insert(key.clone(), RefusedName { why, confirmed: true });
        }
        room
    }

    /// Resets the counters for a new stream.
    pub fn begin_stream(&mut self) {
        self.tally = OfferTally::default();
        self.refusals.values_mut().for_each(|r| r.confirmed = false);
    }

    /// Removes refused names that the peer did not repeat in its full list: they are not offered any more.
    pub fn drop_unconfirmed(&mut self) -> Vec<ExpositionKey> {
        let gone = self.refusals.iter().filter(|(_, r)| !r.confirmed).map(|(key, _)| key.clone()).collect();
        self.refusals.retain(|_, r| r.confirmed);
        gone
    }

    /// Returns the version of each name. A rejected name has none, so that the peer sends it again or reports that it
    /// is gone.
    pub fn held_versions(&self) -> BTreeMap<ExpositionKey, String> {
        let version = |o: &HeldOffer| if o.rejected.is_none() { o.version.to_string() } else { String::new() };
        let held = self.known.iter().map(|(key, offer)| (key.clone(), version(offer)));
        held.chain(self.refusals.keys().map(|key| (key.clone(), String::new()))).collect()
    }

    /// Returns all names of which anything is known.
    pub fn into_keys(self) -> Vec<ExpositionKey> {
        self.known.into_keys().chain(self.refusals.into_keys()).collect()
    }
}

/// Returns the memory of a name, here and where the donor's task notes its version.
fn name_bytes(key: &ExpositionKey, version: &str) -> usize {
    let texts = key.namespace.as_str().len() + key.name.as_str().len() + 2 * version.len();
    texts + 4 * ALLOCATION + 200
}

fn summary_bytes(ports: usize) -> usize {
    2 * ALLOCATION + size_of::<OfferSummary>() + ports.min(SUMMARY_PORTS) * size_of::<(u16, Protocol)>()
}

/// Returns the approximate memory of an exposition.
pub fn exposition_bytes(e: &Exposition) -> usize {
    let text = |length: usize| ALLOCATION + length;
    let port = |p: &ExposedPort| size_of::<ExposedPort>() + text(p.name.len()) + text(p.host.as_str().len());
    let address = |a: &Address| if let Address::Name(host) = a { text(host.as_str().len()) } else { 0 };
    let ports: usize = e.ports.iter().map(port).sum();
    let identities: usize = e.identities.iter().map(|id| 16 + text(id.as_str().len())).sum();
    let gateways = e.gateways.iter();
    let gateways: usize =
        gateways.map(|g| size_of_val(g) + address(&g.address) + g.locality.as_ref().map_or(0, |l| text(l.len()))).sum();
    let clients = e.clients.iter();
    let clients: usize = clients
        .map(|c| {
            let account = c.service_account.as_ref().map_or(0, |a| text(a.as_str().len()));
            size_of_val(c) + text(c.namespace.as_str().len()) + account
        })
        .sum();
    size_of::<Exposition>() + 5 * ALLOCATION + e.host.as_str().len() + ports + identities + gateways + clients
}

#[cfg(test)]
mod tests;
