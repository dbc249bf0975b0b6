//! Memory that all donors together may make this end hold while it is on its way: not received in full, or decoded and
//! not processed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::ClusterName;
use crate::peering::Limits;
use crate::peering::fair::FairPool;
use crate::peering::limits::{DECODED_FACTOR, PART_BYTES};

/// Bytes of a permit.
const UNIT: usize = 1 << 10;

/// Shared by the tasks of all donors; clones share it.
#[derive(Clone)]
pub struct DonorBudget {
    /// Pool for bytes of messages that are not complete, or are still worked on.
    pub(super) received: Arc<FairPool<ClusterName>>,
    /// Room for entries that are decoded.
    decoded: Arc<Semaphore>,
    decoded_units: u32,
}

impl DonorBudget {
    pub fn new(limits: &Limits) -> DonorBudget {
        let received = FairPool::new(limits.max_changes_in_all, limits.max_changes, Duration::ZERO);
        let decoded_units = permit_units(limits.max_decoded);
        let decoded = Arc::new(Semaphore::new(decoded_units as usize));
        DonorBudget { received: Arc::new(received), decoded, decoded_units }
    }

    /// Waits for room to decode a part of a message of so many bytes, with an entry of so many bytes.
    pub(super) async fn wait_for_room(&self, message: usize, entry: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = DECODED_FACTOR * message.min(PART_BYTES).max(entry);
        let units = permit_units(bytes).clamp(1, self.decoded_units);
        self.decoded.clone().acquire_many_owned(units).await.ok() // it is never closed
    }
}

fn permit_units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}
