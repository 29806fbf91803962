//! Real connections to a router that says who asked.
