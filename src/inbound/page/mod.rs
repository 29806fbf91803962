//! The page that people see who follow a link to unsubscribe: the operator's or the one built in, in the language of their browser.
//!
//! Whatever stands in a link is written so that it can only be read as text, and the page may load nothing, run nothing, be
//! framed by nobody, and send its form only to where it came from.

mod language;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::config::{PageTemplate, Place};
use crate::feedback::token::Subscription;
use language::Words;

/// What the browser may do with it: show it, with the styles and pictures that stand in it, and send the form back.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// The page in all languages.
#[derive(Debug)]
pub(super) struct Pages {
    template: PageTemplate,
    languages: Vec<Words>,
}

/// What a page says.
#[derive(Debug, Clone, Copy)]
pub(super) enum Say<'a> {
    /// Whether he wants to leave.
    Ask(&'a Subscription),
    /// That he has left.
    Left(&'a Subscription),
    /// That the link is none of ours.
    Invalid,
    /// That it cannot be done now.
    Later,
}

impl Pages {
    /// With the operator's page, if there is one.
    pub(super) fn new(template: Option<PageTemplate>) -> Pages {
        let built_in = || PageTemplate::parse(include_str!("page.html")).expect("what is built in is read by a test");
        Pages { template: template.unwrap_or_else(built_in), languages: language::all() }
    }

    /// The answer to a request with these header fields.
    pub(super) fn answer(&self, headers: &HeaderMap, say: Say<'_>) -> Response {
        let wishes = headers.get(header::ACCEPT_LANGUAGE).and_then(|wishes| wishes.to_str().ok()).unwrap_or_default();
        let words = language::choose(wishes, &self.languages);
        let status = match say {
            Say::Ask(_) | Say::Left(_) => StatusCode::OK,
            Say::Invalid => StatusCode::NOT_FOUND,
            Say::Later => StatusCode::SERVICE_UNAVAILABLE,
        };
        let language = HeaderValue::from_str(&words.language).expect("a language has a plain name");
        let fields = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
            (header::CONTENT_LANGUAGE, language),
            (header::VARY, HeaderValue::from_static("Accept-Language")),
        ];
        (status, fields, [(header::CONTENT_SECURITY_POLICY, POLICY)], guards(), self.html(words, say)).into_response()
    }

    /// The page for somebody who reads these languages (`Accept-Language`).
    pub(super) fn in_language(&self, wishes: &str, say: Say<'_>) -> String {
        self.html(language::choose(wishes, &self.languages), say)
    }

    fn html(&self, words: &Words, say: Say<'_>) -> String {
        let (title, sentence, subscription) = match say {
            Say::Ask(it) if it.list.is_some() => (&words.leave, &words.ask_list, Some(it)),
            Say::Ask(it) => (&words.leave, &words.ask, Some(it)),
            Say::Left(it) => (&words.left, &words.no_more, Some(it)),
            Say::Invalid => (&words.invalid, &words.whole_link, None),
            Say::Later => (&words.later, &words.try_again, None),
        };
        let address = subscription.map(|it| escape(&it.address.to_string())).unwrap_or_default();
        let list = subscription.and_then(|it| it.list.as_deref()).map(escape).unwrap_or_default();
        let text = written(sentence, &address, &list);
        let action = match say {
            Say::Ask(_) => {
                let leave = &words.leave;
                format!("<form method=\"post\"><button name=\"confirm\" value=\"yes\">{leave}</button></form>")
            }
            Say::Left(_) | Say::Invalid | Say::Later => String::new(),
        };
        self.template.fill(|place| match place {
            Place::Language => &words.language,
            Place::Direction if words.right_to_left => "rtl",
            Place::Direction => "ltr",
            Place::Title => title,
            Place::Text => &text,
            Place::Action => &action,
            Place::Address => &address,
            Place::List => &list,
        })
    }
}

/// What goes with every answer, page or not: nobody keeps it, frames it, guesses what it is or learns where it was.
pub(super) fn guards() -> [(HeaderName, &'static str); 5] {
    [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("x-robots-tag"), "noindex"),
    ]
}

/// A sentence with who leaves what, which are escaped already. Each has its own direction of writing.
fn written(sentence: &str, address: &str, list: &str) -> String {
    let value = |value: &str| format!("<b><bdi>{value}</bdi></b>");
    // A brace of a value is escaped: it is no place.
    sentence.replace("{list}", &value(list)).replace("{address}", &value(address))
}

/// So that it is text wherever it stands in HTML, even as a value of an attribute without quotes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 4);
    for c in text.chars() {
        match c {
            _ if c.is_ascii_alphanumeric() || matches!(c, '@' | '.' | '-' | '_') || !c.is_ascii() => out.push(c),
            _ => out.push_str(&format!("&#{};", u32::from(c))),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{MessageId, Stream};

    fn subscription(address: &str, list: Option<&str>) -> Subscription {
        Subscription {
            address: address.parse().unwrap(),
            stream: Stream::default(),
            list: list.map(Into::into),
            message: MessageId(1),
        }
    }

    fn html(pages: &Pages, language: &str, say: Say<'_>) -> String {
        pages.in_language(language, say)
    }

    #[test]
    fn says_it_in_their_language() {
        let (pages, ann) = (Pages::new(None), subscription("ann@us.example", Some("news")));
        let german = html(&pages, "de", Say::Ask(&ann));
        assert!(german.contains("<html lang=\"de\" dir=\"ltr\">"), "{german}");
        let sentence = "M\u{f6}chten Sie <b><bdi>ann@us.example</bdi></b> von <b><bdi>news</bdi></b> abmelden?";
        assert!(german.contains(sentence), "{german}");
        assert!(german.contains("value=\"yes\">Abmelden</button>"), "{german}");
        let arabic = html(&pages, "ar", Say::Left(&ann));
        assert!(arabic.contains("<html lang=\"ar\" dir=\"rtl\">") && !arabic.contains("<form"), "{arabic}");
        let plain = html(&pages, "", Say::Ask(&subscription("ann@us.example", None)));
        assert!(plain.contains("unsubscribe <b><bdi>ann@us.example</bdi></b>?"), "{plain}");
        for words in &pages.languages {
            for say in [Say::Ask(&ann), Say::Left(&ann), Say::Invalid, Say::Later] {
                let html = pages.html(words, say);
                assert!(!html.contains("{{") && !html.contains("{address}") && !html.contains("{list}"), "{html}");
                assert_eq!(html.contains("<form method=\"post\">"), matches!(say, Say::Ask(_)));
                // Nothing is loaded from anywhere.
                assert!(!html.contains("http") && !html.contains("src=") && !html.contains("url("), "{html}");
            }
        }
    }

    #[test]
    fn nobody_writes_into_the_page() {
        let hostile = subscription(
            "\"<script>alert(1)</script>&{list}\"@us.example",
            Some("\"'> <img src=x>{address}{{action}}"),
        );
        let template = PageTemplate::parse("<a title={{address}} class='{{list}}'>{{text}}</a>{{action}}").unwrap();
        for pages in [Pages::new(None), Pages::new(Some(template))] {
            for say in [Say::Ask(&hostile), Say::Left(&hostile)] {
                let html = html(&pages, "en", say);
                for bad in ["<script", "<img", "alert(", "{address}", "{list}", "{{", "src=x"] {
                    assert!(!html.contains(bad), "{bad} in {html}");
                }
                assert!(html.contains("&#60;script&#62;alert&#40;1&#41;"), "{html}");
                assert_eq!(html.matches("<form").count(), usize::from(matches!(say, Say::Ask(_))), "{html}");
            }
        }
    }
}
