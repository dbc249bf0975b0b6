//! Slots for the connections of the admin listener, so that a greedy caller keeps no probe from its answer.
//!
//! A connection arrives, and then asks for a probe or for a report. Each of the three stages has slots of its own. A
//! full stage closes its oldest connection, of the address that holds most of them: a caller that takes many slots
//! loses its own, and a newcomer always gets one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Most connections whose first request has not been read to its end.
const MAX_ARRIVING: usize = 32;
/// Most connections that wait for the answer of a probe.
const MAX_PROBES: usize = 32;
/// Most connections that wait for metrics or the status, or read them.
const MAX_REPORTS: usize = 16;
/// Most reports for one address.
const MAX_REPORTS_PER_ADDRESS: usize = 4;
/// Most connections at the same time.
pub const MAX_CONNECTIONS: usize = MAX_ARRIVING + MAX_PROBES + MAX_REPORTS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotStage {
    Arriving,
    Probe,
    Report,
}

impl SlotStage {
    fn max_slots(self) -> usize {
        match self {
            SlotStage::Arriving => MAX_ARRIVING,
            SlotStage::Probe => MAX_PROBES,
            SlotStage::Report => MAX_REPORTS,
        }
    }

    fn limit_per_address(self) -> usize {
        if self == SlotStage::Report { MAX_REPORTS_PER_ADDRESS } else { self.max_slots() }
    }
}

/// All connections of the listener, the oldest first within each stage.
#[derive(Clone, Default)]
pub struct AdminSlots(Arc<Mutex<SlotTable>>);

#[derive(Default)]
struct SlotTable {
    next: u64,
    taken: Vec<TakenSlot>,
}

struct TakenSlot {
    id: u64,
    address: IpAddr,
    stage: SlotStage,
    closed: CancellationToken,
}

/// The slot of one connection. Dropping it frees the slot.
pub struct AdminSlot {
    slots: AdminSlots,
    id: u64,
    address: IpAddr,
    /// Cancelled when the connection must make room for another.
    pub closed: CancellationToken,
}

impl AdminSlots {
    fn lock_table(&self) -> MutexGuard<'_, SlotTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a slot to a new connection.
    pub fn admit_connection(&self, address: IpAddr) -> AdminSlot {
        let address = network_of(address);
        let closed = CancellationToken::new();
        let mut table = self.lock_table();
        let id = table.next;
        table.next += 1;
        table.add_slot(TakenSlot { id, address, stage: SlotStage::Arriving, closed: closed.clone() });
        drop(table);
        AdminSlot { slots: self.clone(), id, address, closed }
    }
}

impl AdminSlot {
    /// Moves the connection to another stage, where it is the newest. A connection that was closed meanwhile stays
    /// closed.
    pub fn enter_stage(&self, stage: SlotStage) {
        let mut table = self.slots.lock_table();
        if table.remove_slot(self.id) {
            table.add_slot(TakenSlot { id: self.id, address: self.address, stage, closed: self.closed.clone() });
        }
    }
}

impl Drop for AdminSlot {
    fn drop(&mut self) {
        self.slots.lock_table().remove_slot(self.id);
    }
}

impl SlotTable {
    fn add_slot(&mut self, slot: TakenSlot) {
        if let Some(id) = self.choose_victim(slot.stage, slot.address) {
            let victim = self.taken.iter().position(|t| t.id == id).map(|at| self.taken.remove(at));
            victim.inspect(|v| v.closed.cancel());
        }
        self.taken.push(slot);
    }

    fn remove_slot(&mut self, id: u64) -> bool {
        let before = self.taken.len();
        self.taken.retain(|t| t.id != id);
        self.taken.len() < before
    }

    /// Returns the connection that makes room for one more in this stage. None if there is room.
    fn choose_victim(&self, stage: SlotStage, newcomer: IpAddr) -> Option<u64> {
        let in_stage = || self.taken.iter().filter(move |t| t.stage == stage);
        let mut held: HashMap<IpAddr, usize> = HashMap::new();
        in_stage().for_each(|t| *held.entry(t.address).or_default() += 1);
        if held.get(&newcomer).is_some_and(|n| *n >= stage.limit_per_address()) {
            return in_stage().find(|t| t.address == newcomer).map(|t| t.id);
        }
        if in_stage().count() < stage.max_slots() {
            return None;
        }
        let most = held.values().copied().max().unwrap_or_default();
        in_stage().find(|t| held.get(&t.address) == Some(&most)).map(|t| t.id)
    }
}

/// Reduces an address to its network: a host with an IPv6 network has all of its addresses, and loopback is one host.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        address if address.is_loopback() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn closed(slots: &[AdminSlot]) -> usize {
        slots.iter().filter(|s| s.closed.is_cancelled()).count()
    }

    fn reports(slots: &AdminSlots, address: &str, count: usize) -> Vec<AdminSlot> {
        let admitted = (0..count).map(|_| slots.admit_connection(ip(address)));
        admitted.inspect(|slot| slot.enter_stage(SlotStage::Report)).collect()
    }

    #[test]
    fn an_address_keeps_its_newest_reports_and_takes_none_of_others() {
        let slots = AdminSlots::default();
        let other = reports(&slots, "192.0.2.1", 1);
        let greedy = reports(&slots, "192.0.2.66", 40);
        assert_eq!(closed(&greedy[..36]), 36, "the oldest were closed");
        assert_eq!(closed(&greedy[36..]) + closed(&other), 0);
    }

    #[test]
    fn many_addresses_close_their_own_reports_and_not_those_of_one_that_has_few() {
        let slots = AdminSlots::default();
        let scraper = reports(&slots, "192.0.2.1", 1);
        let greedy: Vec<_> = (10..20).flat_map(|n| reports(&slots, &format!("192.0.2.{n}"), 4)).collect();
        assert_eq!(closed(&scraper), 0);
        assert_eq!(closed(&greedy), 40 + 1 - MAX_REPORTS);
    }

    #[test]
    fn one_ipv6_network_and_all_of_loopback_count_as_one_address() {
        for range in ["2001:db8:0:1::", "127.0.0.", "::ffff:127.0.1."] {
            let slots = AdminSlots::default();
            let all: Vec<_> = (1..=9).flat_map(|n| reports(&slots, &format!("{range}{n}"), 1)).collect();
            assert_eq!(closed(&all), 9 - MAX_REPORTS_PER_ADDRESS, "{range}");
        }
    }

    #[test]
    fn a_probe_finds_a_slot_among_any_number_of_reports_and_silent_connections() {
        let slots = AdminSlots::default();
        let reports = reports(&slots, "192.0.2.66", 100);
        let silent: Vec<_> = (0..100).map(|_| slots.admit_connection(ip("192.0.2.66"))).collect();
        let probe = slots.admit_connection(ip("192.0.2.1"));
        probe.enter_stage(SlotStage::Probe);
        assert!(!probe.closed.is_cancelled());
        assert_eq!(closed(&silent), 100 + 1 - MAX_ARRIVING);
        drop((reports, silent));
        let table = slots.lock_table();
        assert_eq!(table.taken.iter().map(|t| t.stage).collect::<Vec<_>>(), [SlotStage::Probe], "slots are given back");
    }

    #[test]
    fn a_connection_that_was_closed_takes_no_other_slot() {
        let slots = AdminSlots::default();
        let first = slots.admit_connection(ip("192.0.2.1"));
        let others: Vec<_> = (0..MAX_ARRIVING).map(|_| slots.admit_connection(ip("192.0.2.1"))).collect();
        assert!(first.closed.is_cancelled());
        first.enter_stage(SlotStage::Probe);
        assert!(slots.lock_table().taken.iter().all(|t| t.stage == SlotStage::Arriving));
        assert_eq!(closed(&others), 0);
    }
}
