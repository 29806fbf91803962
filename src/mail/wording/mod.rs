//! What receivers write, made searchable: for whoever judges replies by rules.
//!
//! 1. [`comparable`] takes case, accents, codes and addresses out of a text; [`codes`] finds the codes in it.
//! 2. [`Phrases`] searches it once for the texts of all rules together.
//! 3. A rule's [`Wording`] says which of them must stand there and which must not.
//!
//! Rules are tables in `config/replies/` and `config/providers/`; both are written the same way.

mod phrases;
mod text;

pub use phrases::{Found, Phrases, PhrasesBuilder, Wording};
pub use text::{codes, comparable};

use super::EnhancedCode;

/// The enhanced codes that a name in a table stands for: `5.1.1`, `x.2.2` for 4 and 5, `5.7.606-649`. Empty if it is none.
pub fn spread(name: &str) -> Vec<EnhancedCode> {
    let mut parts = name.split('.');
    let mut part = || parts.next().unwrap_or_default();
    let (class, subject, detail) = (part(), part(), part());
    let classes = if class == "x" { vec!["4", "5"] } else { vec![class] };
    let (from, to) = detail.split_once('-').unwrap_or((detail, detail));
    let (Ok(from), Ok(to)) = (from.parse::<u16>(), to.parse::<u16>()) else { return Vec::new() };
    let named = |detail| classes.iter().filter_map(move |class| format!("{class}.{subject}.{detail}").parse().ok());
    (from..=to.min(999)).flat_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_codes() {
        for (name, expected) in [
            ("5.1.1", "5.1.1"),
            ("x.2.2", "4.2.2 5.2.2"),
            ("4.7.650-652", "4.7.650 4.7.651 4.7.652"),
            ("x.7", ""),
            ("3.1.1", ""),
            ("5.7.9-3", ""),
            ("", ""),
        ] {
            let codes: Vec<String> = spread(name).iter().map(ToString::to_string).collect();
            assert_eq!(codes.join(" "), expected, "{name}");
        }
    }
}
