//! What is kept of one donor's offers, within its budget of bytes. Pure.
//!
//! What a binding uses is kept whole. The rest is kept whole while the budget lasts, then without its content, and then not at
//! all. The donor tells again what is missing here, when a new stream does not mention it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Address, ExposedPort, Exposition, ExpositionKey, Protocol, TlsMode};
use crate::peering::limits::{MAX_REJECTED_NAMES, MAX_REJECTION};
use crate::peering::prose;
use crate::translate;

/// Ports that are kept of an exposition whose content is not.
const SUMMARY_PORTS: usize = 8;
/// An allocation with its head and the counts of an `Arc`.
const ALLOCATION: usize = 32;

/// What a peer was last heard to offer.
#[derive(Default)]
pub struct PeerOffers {
    known: BTreeMap<ExpositionKey, Offer>,
    /// Names that are held in no version, because what the peer has under them is not fit to be used.
    refusals: BTreeMap<ExpositionKey, Refusal>,
    /// What `known` takes in memory.
    bytes: usize,
    /// There may be contents, and names, that no binding uses. Not: looking for some would be in vain.
    has_contents: bool,
    has_names: bool,
    /// Names whose content made room for others, since that was last told.
    dropped: Vec<ExpositionKey>,
    pub tally: OfferTally,
    /// In step with the peer since this process started, so that what is not here is not offered.
    pub synced: bool,
    /// Why the peer refuses to talk to this cluster, if it does.
    pub refused: Option<String>,
    /// Why it cannot be reached, if it cannot.
    pub unreachable: Option<String>,
    /// Its last stream was ended by this end, and it was not in step since.
    pub misbehaving: bool,
    pub connected: bool,
    /// It was connected until a moment ago, and may be back in another: bindings do not say yet that it is away.
    pub missed: bool,
}

/// What is counted only, since the stream began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OfferTally {
    pub rejected: u64,
    /// Fit to be used, and not held: the peer offers too much.
    pub left_out: u64,
}

pub struct Offer {
    pub version: Arc<str>,
    pub content: OfferContent,
    /// Why the newest is not fit to be used. What was good before stays in force.
    pub rejected: Option<Box<Unfit>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OfferContent {
    Full(Arc<Exposition>),
    /// What people choose by. The rest is asked for again when a binding wants it.
    Summary(Box<OfferSummary>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferSummary {
    pub tls: TlsMode,
    /// At most [`SUMMARY_PORTS`].
    pub ports: Box<[(u16, Protocol)]>,
    pub more_ports: bool,
}

struct Refusal {
    why: Box<Unfit>,
    /// This stream said it.
    confirmed: bool,
}

/// Why an exposition is not fit to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    pub why: String,
    /// What the donor is told of it.
    pub told: String,
}

impl From<String> for Unfit {
    fn from(why: String) -> Unfit {
        Unfit { told: why.clone(), why }
    }
}

impl From<translate::Rejection> for Unfit {
    fn from(rejection: translate::Rejection) -> Unfit {
        Unfit { why: rejection.to_string(), told: rejection.for_donor() }
    }
}

impl Unfit {
    fn bounded(self) -> Box<Unfit> {
        Box::new(Unfit { why: prose(&self.why, MAX_REJECTION), told: prose(&self.told, MAX_REJECTION) })
    }

    fn bytes(&self) -> usize {
        self.why.len() + self.told.len() + 3 * ALLOCATION
    }
}

/// How an offer is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    Full,
    Summary,
    LeftOut,
    /// A binding uses it, and even without all others there is no room.
    NoRoom,
}

impl OfferSummary {
    fn of(e: &Exposition) -> OfferSummary {
        let ports = e.ports.iter().take(SUMMARY_PORTS).map(|p| (p.number, p.protocol)).collect();
        OfferSummary { tls: e.tls, ports, more_ports: e.ports.len() > SUMMARY_PORTS }
    }
}

impl Offer {
    pub fn exposition(&self) -> Option<&Arc<Exposition>> {
        match &self.content {
            OfferContent::Full(exposition) => Some(exposition),
            OfferContent::Summary(_) => None,
        }
    }

    pub fn summary(&self) -> OfferSummary {
        match &self.content {
            OfferContent::Full(exposition) => OfferSummary::of(exposition),
            OfferContent::Summary(summary) => (**summary).clone(),
        }
    }

    /// Its port, if it has one only.
    pub fn only_port(&self) -> Option<u16> {
        match &self.content {
            OfferContent::Full(e) if e.ports.len() == 1 => e.ports.first().map(|p| p.number),
            OfferContent::Summary(s) if s.ports.len() == 1 => s.ports.first().map(|(number, _)| *number),
            _ => None,
        }
    }

    fn bytes(&self, key: &ExpositionKey) -> usize {
        let content = match &self.content {
            OfferContent::Full(exposition) => exposition_bytes(exposition),
            OfferContent::Summary(summary) => summary_bytes(summary.ports.len()),
        };
        name_bytes(key, &self.version) + content + self.rejected.as_ref().map_or(0, |r| r.bytes())
    }
}

impl PeerOffers {
    pub fn get(&self, key: &ExpositionKey) -> Option<&Offer> {
        self.known.get(key)
    }

    pub fn known(&self) -> impl Iterator<Item = (&ExpositionKey, &Offer)> {
        self.known.iter()
    }

    /// How many expositions that are fit to be used are held.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Why a name cannot be used, that is held or not.
    pub fn rejection(&self, key: &ExpositionKey) -> Option<&Unfit> {
        let held = self.known.get(key).and_then(|o| o.rejected.as_deref());
        held.or_else(|| self.refusals.get(key).map(|r| &*r.why))
    }

    /// Names that are held in no version, with the reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&ExpositionKey, &Unfit)> {
        self.refusals.iter().map(|(key, r)| (key, &*r.why))
    }

    /// Why names cannot be used, held or not.
    pub fn rejections(&self) -> impl Iterator<Item = &Unfit> {
        self.known.values().filter_map(|o| o.rejected.as_deref()).chain(self.refusals.values().map(|r| &*r.why))
    }

    /// Keeps an exposition as the budget allows. `gone` is filled with the names that had to make room.
    pub fn place(
        &mut self,
        key: &ExpositionKey,
        version: &str,
        exposition: Arc<Exposition>,
        budget: usize,
        is_used: impl Fn(&ExpositionKey) -> bool,
        gone: &mut Vec<ExpositionKey>,
    ) -> Placed {
        let (name, content) = (name_bytes(key, version), exposition_bytes(&exposition));
        let before = self.known.get(key).map_or(0, |o| o.bytes(key));
        let used = is_used(key);
        let others = self.bytes - before;
        let (whole, short) = (name + content, name + summary_bytes(exposition.ports.len()));
        // A name goes before the content of another; the name of another goes only for what a binding uses.
        if used {
            self.make_room((others + whole).saturating_sub(budget), key, &is_used, Some(gone));
        } else if others + whole > budget {
            self.make_room((others + short).saturating_sub(budget), key, &is_used, None);
        }
        let room = (budget + before).saturating_sub(self.bytes);
        let content = if whole <= room {
            OfferContent::Full(exposition)
        } else if used {
            return Placed::NoRoom;
        } else if short <= room {
            OfferContent::Summary(Box::new(OfferSummary::of(&exposition)))
        } else {
            self.remove(key);
            return Placed::LeftOut;
        };
        let placed = if matches!(content, OfferContent::Full(_)) { Placed::Full } else { Placed::Summary };
        self.refusals.remove(key);
        self.remove(key);
        self.insert(key.clone(), Offer { version: version.into(), content, rejected: None });
        if !used {
            self.has_contents |= placed == Placed::Full;
            self.has_names = true;
        }
        placed
    }

    /// Makes what is kept fit a smaller budget, as far as no binding uses it.
    pub fn shrink(&mut self, budget: usize, is_used: impl Fn(&ExpositionKey) -> bool, gone: &mut Vec<ExpositionKey>) {
        self.look_again();
        self.free(self.bytes.saturating_sub(budget), None, &is_used, Some(gone));
    }

    /// Names that are held without their content since the last call.
    pub fn take_dropped(&mut self) -> Vec<ExpositionKey> {
        std::mem::take(&mut self.dropped)
    }

    /// Some names may not be used any more.
    pub fn look_again(&mut self) {
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
            self.free(bytes, Some(key), is_used, gone);
        }
    }

    /// Frees memory that no binding has a use for: contents, then names if that is allowed.
    fn free(
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
                offer.content = OfferContent::Summary(Box::new(offer.summary()));
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

    fn insert(&mut self, key: ExpositionKey, offer: Offer) {
        self.bytes += offer.bytes(&key);
        self.known.insert(key, offer);
    }

    fn remove(&mut self, key: &ExpositionKey) -> Option<Offer> {
        let offer = self.known.remove(key)?;
        self.bytes -= offer.bytes(key);
        Some(offer)
    }

    /// The peer offers it no longer. Returns whether anything was known of it.
    pub fn withdraw(&mut self, key: &ExpositionKey) -> bool {
        let refused = self.refusals.remove(key).is_some();
        self.remove(key).is_some() || refused
    }

    /// What the peer has under this name is not fit to be used. Of names that are not held, and that no binding uses, only
    /// some are kept. Returns whether it is.
    pub fn reject(&mut self, key: &ExpositionKey, why: Unfit, used: bool) -> bool {
        self.tally.rejected += 1;
        let why = why.bounded();
        if let Some(mut offer) = self.remove(key) {
            offer.rejected = Some(why);
            self.insert(key.clone(), offer);
            return true;
        }
        let room = used || self.refusals.len() < MAX_REJECTED_NAMES || self.refusals.contains_key(key);
        if room {
            self.refusals.insert(key.clone(), Refusal { why, confirmed: true });
        }
        room
    }

    /// A stream begins: what was only counted is counted again.
    pub fn begin_stream(&mut self) {
        self.tally = OfferTally::default();
        self.refusals.values_mut().for_each(|r| r.confirmed = false);
    }

    /// The peer told all. Refused names that it did not tell are not offered any more.
    pub fn drop_unconfirmed(&mut self) -> Vec<ExpositionKey> {
        let gone = self.refusals.iter().filter(|(_, r)| !r.confirmed).map(|(key, _)| key.clone()).collect();
        self.refusals.retain(|_, r| r.confirmed);
        gone
    }

    /// The version of each name. What was rejected has none: the peer is to tell it again, or that it is gone.
    pub fn held(&self) -> BTreeMap<ExpositionKey, String> {
        let version = |o: &Offer| if o.rejected.is_none() { o.version.to_string() } else { String::new() };
        let held = self.known.iter().map(|(key, offer)| (key.clone(), version(offer)));
        held.chain(self.refusals.keys().map(|key| (key.clone(), String::new()))).collect()
    }

    /// All names about which anything is known.
    pub fn into_keys(self) -> Vec<ExpositionKey> {
        self.known.into_keys().chain(self.refusals.into_keys()).collect()
    }
}

/// What a name takes, here and where the donor's task notes its version.
fn name_bytes(key: &ExpositionKey, version: &str) -> usize {
    let texts = key.namespace.as_str().len() + key.name.as_str().len() + 2 * version.len();
    texts + 4 * ALLOCATION + 200
}

fn summary_bytes(ports: usize) -> usize {
    2 * ALLOCATION + size_of::<OfferSummary>() + ports.min(SUMMARY_PORTS) * size_of::<(u16, Protocol)>()
}

/// What an exposition takes in memory, about.
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
