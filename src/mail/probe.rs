//! Ways in for fuzz targets and benchmarks; see [`crate::probe`].

use super::{Domain, EnvelopeAddress, ReversePath, header};

/// What is accepted prints and parses to itself, and can stand in a command.
pub fn address(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    let reverse_path = text.parse::<ReversePath>();
    let Ok(address) = text.parse::<EnvelopeAddress>() else {
        assert!(reverse_path.is_err() || text.is_empty(), "a sender that is no address");
        return;
    };
    let printed = address.to_string();
    assert!(!printed.bytes().any(|b| b.is_ascii_control()), "{printed:?}");
    assert!(!address.local().is_empty() && (address.local().starts_with('"') || !printed.contains([' ', '<', '>'])));
    assert_eq!(printed.parse::<EnvelopeAddress>().as_ref(), Ok(&address));
    assert_eq!(reverse_path, Ok(ReversePath::Address(address)));
}

/// What is accepted is a host name in lower case, and prints and parses to itself.
pub fn domain(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    let Ok(domain) = text.parse::<Domain>() else { return };
    let printed = domain.as_str();
    let fit = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    assert!(printed.bytes().all(fit) && (1..=253).contains(&printed.len()), "{printed:?}");
    assert!(printed.split('.').all(|label| (1..=63).contains(&label.len())), "{printed:?}");
    assert_eq!(printed.parse().as_ref(), Ok(&domain));
}

/// Fields stand side by side from the start of the section, and each is made of its parts. Returns how many there are.
pub fn header(message: &[u8]) -> usize {
    let section = &message[..header::section_len(message)];
    let mut end = 0;
    let mut fields = 0;
    for field in header::fields(section) {
        assert!(field.start == end && field.end <= section.len() && field.end > field.start);
        let whole = &section[field.start..field.end];
        assert!(whole.starts_with(field.name) && whole.ends_with(field.value));
        assert!(!field.name.is_empty() && field.name.iter().all(|b| b.is_ascii_graphic() && *b != b':'));
        // All but the last end where a line does, and go on in no other.
        assert!(field.end == section.len() || whole.ends_with(b"\r\n"));
        assert!(!section[field.end..].starts_with(b" ") && !section[field.end..].starts_with(b"\t"));
        assert!(!field.text().contains("\r\n"));
        end = field.end;
        fields += 1;
    }
    fields
}
