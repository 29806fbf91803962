//! What the tools share: options, the clock, addresses of the benchmark's own little internet.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Header that carries a message's number; `load` writes it, `sink` counts it.
pub const ID_HEADER: &str = "X-Bench-Id: ";

/// Nanoseconds since 1970. Source and sink run on one machine, so their times can be compared.
pub fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_nanos() as u64
}

/// Options given as `--name value`, or `--name` alone for flags.
pub struct Options(HashMap<String, String>);

impl Options {
    /// Reads the process's arguments; ends the process at a name that is not in `values` or `flags`.
    pub fn read(values: &[&str], flags: &[&str]) -> Options {
        let mut seen = HashMap::new();
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let name = arg.strip_prefix("--").unwrap_or("").to_string();
            let value = if flags.contains(&name.as_str()) {
                Some(String::new())
            } else if values.contains(&name.as_str()) {
                args.next()
            } else {
                None
            };
            match value {
                Some(value) => drop(seen.insert(name, value)),
                None => {
                    eprintln!("unknown or incomplete option {arg}; known: {values:?} {flags:?}");
                    std::process::exit(2);
                }
            }
        }
        Options(seen)
    }

    pub fn flag(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The option as a number or the like; ends the process if it is none.
    pub fn get<T: FromStr>(&self, name: &str, default: T) -> T {
        let Some(text) = self.text(name) else { return default };
        text.parse().unwrap_or_else(|_| {
            eprintln!("--{name}: cannot use {text:?}");
            std::process::exit(2)
        })
    }
}
