//! The set-up of Patroni that a member comes from: what its file and the dynamic configuration mean as settings of this package. Pure.
//!
//! What no setting expresses is kept by blocks of a template. At last the new file is compared with the old one, key by key, so that
//! nothing is lost without being named.

mod blocks;
mod from_dynamic;
mod from_file;
mod judge;
mod rows;
mod values;

pub(crate) use blocks::{Block, blocks, template};
pub(crate) use from_dynamic::from_dynamic;
pub(crate) use from_file::{Mapped, NamedFile, Source, from_file, own_parameters};
pub(crate) use judge::{added, judge};
pub(crate) use rows::{Fate, Row};

#[cfg(test)]
mod tests;
