//! The fast tier: no cluster, no network but loopback.

mod translate;
