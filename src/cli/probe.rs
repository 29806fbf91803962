//! Ways in for fuzz targets; see [`crate::probe`].

pub use super::send::probe::{arguments, letter};
