//! (to come)
pub mod names;
