//! The limits of what is carried, in one place.
//!
//! Where Envoy or istiod has a limit, the one here is at or below it, and the comment names it. The others bound what
//! one tenant puts into a gateway that others share.

use std::time::Duration;

/// Routes of one entry, over all its ports.
pub(in crate::translate) const MAX_ROUTES: usize = 512;
/// Matches of one entry, over all its ports. istiod makes an Envoy route of each.
pub(in crate::translate) const MAX_MATCHES: usize = 1024;
/// Header rules and conditions of one entry, over all its ports.
pub(in crate::translate) const MAX_HEADERS: usize = 2048;
/// Bytes of all that one entry brings, as JSON. An API server stores objects of up to about 1.5 MB.
pub(in crate::translate) const MAX_BYTES: usize = 256 * 1024;

/// Header rules and conditions of one route. Envoy takes 1,000 headers to add (`Route.request_headers_to_add`).
pub(in crate::translate) const MAX_HEADERS_PER_ROUTE: usize = 128;
/// Destinations of one route, and mirrors of one route.
pub(in crate::translate) const MAX_DESTINATIONS: usize = 32;
pub(in crate::translate) const MAX_MIRRORS: usize = 8;
/// Entries of each list of a CORS policy.
pub(in crate::translate) const MAX_CORS: usize = 64;
/// One weight. Envoy adds the weights of a route up in 32 bits (`WeightedCluster`).
pub(in crate::translate) const MAX_WEIGHT: i32 = 1_000_000;

/// A route's name, a match's name, a prefix of statistics.
pub(in crate::translate) const MAX_NAME: usize = 63;
/// The name of a header or of a query parameter. Envoy takes 1,024 bytes (`QueryParameterMatcher.name`).
pub(in crate::translate) const MAX_FIELD_NAME: usize = 128;
/// The value of a header that is set. Envoy takes 16,384 bytes (`HeaderValue.value`).
pub(in crate::translate) const MAX_VALUE: usize = 4096;
/// A text that a request is compared with, a path, an origin.
pub(in crate::translate) const MAX_TEXT: usize = 1024;
/// A host name (RFC 1035).
pub(in crate::translate) const MAX_HOST: usize = 253;
/// Envoy's default for the body of a direct response (`RouteConfiguration.max_direct_response_body_size_bytes`): one
/// longer body, and the whole update is rejected.
pub(in crate::translate) const MAX_BODY: usize = 4096;

/// The text of one regular expression.
pub(in crate::translate) const MAX_REGEX: usize = 1024;
/// RE2's program for one regular expression. Istio's bootstrap makes Envoy reject 32,768 and more
/// (`re2.max_program_size.error_level`); the size is estimated, never below what RE2 makes of it, and the limit is an
/// eighth of Istio's.
pub(in crate::translate) const MAX_PROGRAM: usize = 4096;
/// The programs of one route, and those of one entry.
pub(in crate::translate) const MAX_PROGRAM_PER_ROUTE: usize = 8192;
pub(in crate::translate) const MAX_PROGRAM_PER_ENTRY: usize = 65_536;
/// Most repetitions of something, `{n}`. RE2 takes 1,000, also as the product of repetitions inside each other.
pub(in crate::translate) const MAX_REPEAT: u32 = 1000;
/// Deepest nesting of groups. RE2 takes 1,000.
pub(in crate::translate) const MAX_NESTING: u32 = 32;

/// The longest timeout. Envoy takes any; a year is longer than a gateway runs.
pub(in crate::translate) const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);
/// The longest delay that a fault puts in: the request waits in the gateway that others share.
pub(in crate::translate) const MAX_DELAY: Duration = Duration::from_secs(3600);
/// Attempts of one request.
pub(in crate::translate) const MAX_ATTEMPTS: i32 = 25;

/// Subsets of the owner's rules for one Service.
pub(in crate::translate) const MAX_SUBSETS: usize = 128;
/// Labels of a subset, ports with settings of their own, names of a certificate, localities, attributes of a cookie.
pub(in crate::translate) const MAX_LABELS: usize = 32;
pub(in crate::translate) const MAX_PORT_SETTINGS: usize = 64;
pub(in crate::translate) const MAX_NAMES: usize = 32;
pub(in crate::translate) const MAX_LOCALITIES: usize = 32;
pub(in crate::translate) const MAX_ATTRIBUTES: usize = 16;
/// The entries of a ring for consistent hashing. Envoy takes 8,388,608, for each cluster in each worker.
pub(in crate::translate) const MAX_RING: i64 = 65_536;
/// The entries of a Maglev table, which have to be a prime number: Envoy's own default. It takes 5,000,011.
pub(in crate::translate) const MAX_TABLE: i64 = 65_537;
/// Linux's limits for keep-alive (`MAX_TCP_KEEPCNT`, `MAX_TCP_KEEPIDLE`).
pub(in crate::translate) const MAX_PROBES: i64 = 127;
pub(in crate::translate) const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);
