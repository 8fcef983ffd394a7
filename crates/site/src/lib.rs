//! A Debian PostgreSQL host.
