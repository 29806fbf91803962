//! A file system in memory that crashes and fails on demand. For tests.
