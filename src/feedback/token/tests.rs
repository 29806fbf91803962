//! Tokens made, read, altered.

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn tokens() -> Tokens {
    Tokens::new(b"a secret of some length")
}

fn subscription() -> Subscription {
    Subscription {
        address: "a@them.example".parse().unwrap(),
        stream: Stream { tenant: "shop".into(), class: Class::Bulk, campaign: "spring".into() },
        list: Some("news".into()),
        message: MessageId(77 << 22),
    }
}

#[test]
fn what_is_made_is_read_in_any_case() {
    let address: EnvelopeAddress = "A@them.example".parse().unwrap();
    let same: EnvelopeAddress = "a@THEM.example".parse().unwrap();
    assert_eq!(RecipientHash::of(&address), RecipientHash::of(&same));
    let other: EnvelopeAddress = "b@them.example".parse().unwrap();
    let message = MessageId(Timestamp(1_700_000_000_000).0 << 22 | 5);
    let some = [
        Sent::any(message),
        Sent::to(message, [&address].into_iter()),
        Sent::to(message, [&address, &other].into_iter()),
    ];
    for sent in some {
        let text = tokens().sent(sent);
        assert_eq!(text.len(), 36);
        for text in [text.to_uppercase(), text] {
            let now = Timestamp(1_700_000_000_000);
            assert_eq!(tokens().read_sent(&text, now.after(DAY), DAY), Ok(sent));
            assert_eq!(tokens().read_sent(&text, now.after(2 * DAY), DAY), Err(TokenError::Expired));
            assert_eq!(Tokens::new(b"another").read_sent(&text, now, DAY), Err(TokenError::Forged));
        }
    }
    let to_list = Stream { campaign: "".into(), ..subscription().stream };
    let read = Subscription { stream: to_list, ..subscription() };
    let unlisted = Subscription { list: None, ..subscription() };
    for (subscription, read) in [(subscription(), read), (unlisted.clone(), unlisted)] {
        let text = tokens().subscription(&subscription);
        assert_eq!(tokens().read_subscription(&text), Ok(read));
        assert_eq!(Tokens::new(b"another").read_subscription(&text), Err(TokenError::Forged));
    }
}

#[test]
fn no_octet_can_be_changed() {
    let sent = tokens().sent(Sent::any(MessageId(9 << 22)));
    let subscription = tokens().subscription(&subscription());
    for place in 0..sent.len() {
        for other in "0z-é".chars().filter(|other| !sent[place..].starts_with(*other)) {
            let text = format!("{}{other}{}", &sent[..place], &sent[place + 1..]);
            assert!(tokens().read_sent(&text, Timestamp(9), DAY).is_err(), "{text}");
        }
    }
    for place in 0..subscription.len() {
        let other = if subscription[place..].starts_with('A') { 'B' } else { 'A' };
        let text = format!("{}{other}{}", &subscription[..place], &subscription[place + 1..]);
        assert!(tokens().read_subscription(&text).is_err(), "{text}");
    }
    for text in ["", "a", "====", &"A".repeat(10_000)] {
        assert_eq!(tokens().read_subscription(text), Err(TokenError::Malformed));
        assert_eq!(tokens().read_sent(text, Timestamp(9), DAY), Err(TokenError::Malformed));
    }
}

#[test]
fn who_has_a_token_speaks_for_himself_or_for_his_domain() {
    let all: Vec<EnvelopeAddress> =
        ["a@x.example", "b@X.example", "c@y.example"].map(|address| address.parse().unwrap()).into();
    let covered = |recipients: &[usize]| {
        let sent = Sent::to(MessageId(9 << 22), recipients.iter().map(|place| &all[*place]));
        let read = tokens().read_sent(&tokens().sent(sent), Timestamp(9), DAY);
        assert_eq!(read, Ok(sent));
        all.iter().map(|address| sent.covers(address)).collect::<Vec<_>>()
    };
    assert_eq!(covered(&[0]), [true, false, false]);
    assert_eq!(covered(&[0, 1]), [true, true, false]);
    assert_eq!(covered(&[0, 2]), [false; 3]);
    assert_eq!(covered(&[0, 1, 2]), [false; 3]);
    assert_eq!(covered(&[]), [false; 3]);
}

#[test]
fn the_secret_is_made_once_and_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.key");
    let made = Tokens::load_or_make(&path).unwrap().subscription(&subscription());
    let read = Tokens::load_or_make(&path).unwrap().subscription(&subscription());
    assert_eq!(made, read);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&path, "short").unwrap();
    assert!(Tokens::load_or_make(&path).is_err());
}
