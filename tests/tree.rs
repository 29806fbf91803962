//! Checks of the tree itself: the configuration file against the code, the order of the modules, the crates that are built.

mod config;
mod dependencies;
mod layering;
