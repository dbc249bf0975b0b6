//! Limits for the sum of what one entry brings to the gateway, over all its ports.

use serde::Serialize;

use super::limits::{
    MAX_BYTES, MAX_HEADERS, MAX_HEADERS_PER_ROUTE, MAX_MATCHES, MAX_PROGRAM_PER_ENTRY, MAX_PROGRAM_PER_ROUTE,
    MAX_ROUTES,
};
use super::refusal::FieldRefusal;

/// Sums of what one entry has brought so far.
#[derive(Debug, Clone, Default)]
pub(in crate::translate) struct CarryBudget {
    routes: usize,
    matches: usize,
    headers: usize,
    bytes: usize,
    program: usize,
    route_headers: usize,
    route_program: usize,
}

impl CarryBudget {
    pub fn begin_route(&mut self) -> Result<(), FieldRefusal> {
        (self.route_headers, self.route_program) = (0, 0);
        add_bounded(&mut self.routes, 1, MAX_ROUTES, "routes of one entry, over all its ports")
    }

    pub fn add_match(&mut self) -> Result<(), FieldRefusal> {
        add_bounded(&mut self.matches, 1, MAX_MATCHES, "matches of one entry, over all its ports")
    }

    pub fn add_headers(&mut self, count: usize) -> Result<(), FieldRefusal> {
        add_bounded(&mut self.route_headers, count, MAX_HEADERS_PER_ROUTE, "header rules and conditions of one route")?;
        add_bounded(
            &mut self.headers,
            count,
            MAX_HEADERS,
            "header rules and conditions of one entry, over all its ports",
        )
    }

    pub fn add_program(&mut self, size: usize) -> Result<(), FieldRefusal> {
        let of_route = "instructions of RE2 in the regular expressions of one route";
        add_bounded(&mut self.route_program, size, MAX_PROGRAM_PER_ROUTE, of_route)?;
        let of_entry = "instructions of RE2 in the regular expressions of one entry, over all its ports";
        add_bounded(&mut self.program, size, MAX_PROGRAM_PER_ENTRY, of_entry)
    }

    pub fn add_bytes(&mut self, object: &impl Serialize) -> Result<(), FieldRefusal> {
        let size = serde_json::to_vec(object).map_or(usize::MAX, |text| text.len());
        add_bounded(&mut self.bytes, size, MAX_BYTES, "bytes of one entry, over all its ports")
    }
}

fn add_bounded(sum: &mut usize, more: usize, limit: usize, what: &str) -> Result<(), FieldRefusal> {
    *sum = sum.saturating_add(more);
    if *sum <= limit {
        return Ok(());
    }
    Err(FieldRefusal::new(format!("more than {limit} {what}"))
        .cure("give other clusters a VirtualService with less in it, or expose fewer ports in one entry"))
}
