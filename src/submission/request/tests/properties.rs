//! Whatever the texts are, a reader sees them and nothing else.

use mail_parser::MimeHeaders;
use proptest::prelude::*;

use super::*;

fn name() -> impl Strategy<Value = String> {
    "[ -~äöü–€😀漢\u{200f}]{1,80}"
        .prop_map(|name| name.trim().to_owned())
        .prop_filter("said", |name| !name.is_empty() && !name.contains("=?"))
}

/// White space as a reader shows it.
fn shown(text: &str) -> String {
    text.split([' ', '\t']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_goes_in_is_what_a_reader_sees(
        from in name(),
        to in name(),
        subject in "[ -~äöü–€😀漢]{0,200}",
        body in "([ -~äöü😀\t]{0,120}(\r\n|\n|\r)){0,20}[ -~]{0,300}",
        html in proptest::option::of("[ -~äöü\n]{0,300}"),
        file in "[ -~äöü😀]{1,60}",
        octets in proptest::collection::vec(any::<u8>(), 0..300),
        kind in prop_oneof![Just("text/plain"), Just("application/pdf"), Just("image/png")],
    ) {
        // The parser makes text of text.
        let mask = if kind == "text/plain" { 0x7f } else { 0xff };
        let octets: Vec<u8> = octets.iter().map(|octet| octet & mask).collect();
        let message = one(parts(|parts| {
            parts.from = Some(Mailbox { name: Some(from.clone()), address: "a@b.example".into() });
            parts.to = vec![Mailbox { name: Some(to.clone()), address: "c@d.example".into() }];
            parts.subject = Some(subject.clone());
            parts.text = Some(body.clone());
            parts.html = html.clone();
            parts.attachments = vec![Attachment {
                file_name: Some(file.clone()),
                content_type: Some(kind.into()),
                content: octets.clone().into(),
                ..Attachment::default()
            }];
        }));
        let parsed = parse(&message.content);
        let first = |list: Option<&mail_parser::Address<'_>>| {
            list.and_then(|list| list.first()).and_then(|who| who.name()).map(shown)
        };
        prop_assert_eq!(first(parsed.from()), Some(shown(&from)));
        prop_assert_eq!(first(parsed.to()), Some(shown(&to)));
        prop_assert_eq!(shown(parsed.subject().unwrap_or_default()), shown(&subject));
        let lines = |text: &str| text.replace("\r\n", "\n").replace('\r', "\n");
        prop_assert_eq!(lines(&parsed.body_text(0).unwrap_or_default()), lines(&body));
        if let Some(html) = &html {
            prop_assert_eq!(lines(&parsed.body_html(0).unwrap_or_default()), lines(html));
        }
        let attached = parsed.attachments().next().expect("there");
        prop_assert_eq!(attached.attachment_name(), Some(&*file));
        prop_assert_eq!(attached.contents(), &octets[..]);
    }

    #[test]
    fn nothing_becomes_a_field_or_a_part(
        a in "(\r\n|\r|\n|\t| |\0|Bcc: x@y|--|=\\?utf-8\\?Q\\?|\\?=|=0A|\u{85}|\u{2028}|\"|<|>|,|;|:|b@c.example){0,12}",
        which in 0..8,
    ) {
        let request = parts(|parts| match which {
            0 => parts.subject = Some(a.clone()),
            1 => parts.from = Some(Mailbox { name: Some(a.clone()), address: "a@b.example".into() }),
            2 => parts.to = vec![Mailbox { name: None, address: a.clone() }],
            3 => parts.headers = vec![("X-A".into(), a.clone())],
            4 => parts.headers = vec![(a.clone(), "v".into())],
            5 => parts.attachments = vec![Attachment { file_name: Some(a.clone()), ..Attachment::default() }],
            6 => parts.attachments = vec![Attachment { content_id: Some(a.clone()), ..Attachment::default() }],
            _ => parts.attachments = vec![Attachment { content_type: Some(a.clone()), ..Attachment::default() }],
        });
        if let Ok(handover) = prepared(request) {
            let content = &handover.messages[0].content;
            check_lines(content);
            let section = &content[..header::section_len(content)];
            let names: Vec<String> = header::fields(section).map(|field| text(field.name)).collect();
            let known = ["Received", "Message-ID", "Date", "From", "To", "Subject", "X-A", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"];
            let stray = names.iter().any(|name| !known.contains(&name.as_str()) && *name != a);
            prop_assert!(!stray, "{names:?}");
            prop_assert!(header::fields(section).last().is_some_and(|field| field.end == section.len()));
            prop_assert!(parse(content).parts.len() <= 3);
        }
    }
}
