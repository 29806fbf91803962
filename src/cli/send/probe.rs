//! Ways in for fuzz targets; see [`crate::probe`].

use super::EX_USAGE;
use super::arguments::{Arguments, Deed};
use super::letter::{self, Letter, Making};
use super::session::xtext;
use crate::mail::Domain;
use crate::mail::header::{fields, section_len};

/// A message on stdin, with its recipients, its sender and its author's name in front, each behind a zero octet; the first octet says which
/// options were given. What comes of it are lines that end in CRLF; nothing of a name makes a field of its own, the blind are hidden, the
/// body is as it was, and read again it stays as it is.
pub fn letter(octets: &[u8]) {
    let Some((mode, rest)) = octets.split_first() else { return };
    let mut parts = rest.splitn(4, |octet| *octet == 0);
    let mut text = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (to, sender, name) = (text(), text(), text());
    let message = parts.next().unwrap_or_default();
    let Ok(content) = letter::read(message, mode & 1 == 0, 1 << 20) else { return };
    assert!(content.is_empty() || content.ends_with(b"\r\n"));
    assert!(memchr::memchr_iter(b'\n', &content).all(|at| at > 0 && content[at - 1] == b'\r'), "a bare LF");
    let domain: Domain = "here.example".parse().expect("it is one");
    let recipients: Vec<String> = Some(to).filter(|to| !to.is_empty()).into_iter().collect();
    let making = Making {
        sender: &sender,
        full_name: (mode & 2 != 0).then_some(&name),
        recipients: &recipients,
        from_header: mode & 4 != 0,
        domain: &domain,
    };
    let made = match Letter::new(content.clone(), &making) {
        Ok(made) => made,
        Err(refused) => return assert!(!refused.why.chars().any(char::is_control), "{refused:?}"),
    };
    assert!(!made.recipients.is_empty());
    let names = |content: &[u8]| -> Vec<Vec<u8>> {
        let name = |field: crate::mail::header::Field<'_>| field.name.to_ascii_lowercase();
        fields(&content[..section_len(content)]).map(name).collect()
    };
    let (mut before, mut after) = (names(&content), names(&made.content));
    assert!(after.iter().all(|name| name != b"bcc" && name != b"resent-bcc"), "the blind can be seen");
    before.retain(|name| name != b"bcc" && name != b"resent-bcc");
    if after.len() > before.len() && making.full_name.is_some() && after[0] == *b"from" {
        assert!(!before.contains(&b"from".to_vec()), "a second From");
        after.remove(0);
    }
    assert_eq!(before, after, "other fields than before");
    assert!(made.content.ends_with(&content[section_len(&content)..]), "the body is another");
    if !made.content.starts_with(b"From ") && !made.content.starts_with(b">From ") {
        assert!(letter::read(&made.content[..], true, 1 << 21).is_ok_and(|again| again == made.content));
    }
}

/// The words of a command line, with a zero octet between them: refused as such, or what goes into commands holds nothing that ends a
/// parameter or a line. Words behind `--` are recipients, and nothing else.
pub fn arguments(octets: &[u8]) {
    let words: Vec<String> = String::from_utf8_lossy(octets).split('\0').map(str::to_owned).collect();
    let found = match Arguments::parse(&words) {
        Ok(found) => found,
        Err(refused) => return assert!(refused.code == EX_USAGE && !refused.why.is_empty(), "{refused:?}"),
    };
    let envid = found.envid.as_deref().map(|envid| xtext(envid).to_string());
    for value in [&found.notify, &found.ret, &envid].into_iter().flatten() {
        assert!(value.bytes().all(|b| b.is_ascii_graphic() && b != b'='), "{value:?}");
    }
    assert_eq!(found.user.is_some(), found.password_file.is_some());
    assert!(found.recipients.iter().all(|recipient| words.contains(recipient)));
    let behind = ["--".to_owned(), "-t".to_owned(), "--server".to_owned(), "-".to_owned()];
    let longer = Arguments::parse(&[&words[..], &behind].concat());
    if found.deed != Deed::Help
        && !words.iter().any(|word| word == "--")
        && let Ok(longer) = longer
    {
        let recipients = [&found.recipients[..], &behind[1..]].concat();
        assert_eq!(longer, Arguments { recipients, ..found });
    }
}
