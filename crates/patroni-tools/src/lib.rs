//! patroni-tools.
