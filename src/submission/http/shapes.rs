//! The shapes that JSON values may have, each read strictly and no further than is allowed.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use super::openapi;
use crate::submission::request::Mailbox;

/// Clients leave out the padding at the end as often as not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Most header fields read.
pub(super) const FIELDS_MAX: usize = 100;

/// `"Ann <ann@example.com>"`, `"ann@example.com"`, or `{"name": "Ann", "address": "ann@example.com"}`.
#[derive(Debug)]
pub(super) struct Who(pub(super) Mailbox);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    #[serde(default)]
    name: Option<String>,
    address: String,
}

/// What must be a JSON object: serde's derive would take an array, too, with the fields in order.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

/// A list of at most `MAX` elements.
#[derive(Debug)]
pub(super) struct List<T, const MAX: usize>(pub(super) Vec<T>);

/// Header fields, in order.
#[derive(Debug, Default)]
pub(super) struct Fields(pub(super) Vec<(String, String)>);

/// Octets in base64.
#[derive(Debug, Default)]
pub(super) struct Octets(pub(super) Bytes);

/// A mailbox as one types it: the address alone, or behind the name in angle brackets.
fn mailbox(text: &str) -> Mailbox {
    let text = text.trim();
    let split = text.strip_suffix('>').and_then(|rest| rest.rsplit_once('<'));
    let Some((name, address)) = split else { return Mailbox { name: None, address: text.into() } };
    let name = name.trim();
    let quoted = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let name = match quoted {
        None => name.to_owned(),
        Some(quoted) => {
            let mut escaped = false;
            let mut plain = |c: &char| {
                escaped = *c == '\\' && !escaped;
                !escaped
            };
            quoted.chars().filter(|c| plain(c)).collect()
        }
    };
    Mailbox { name: Some(name), address: address.trim().into() }
}

impl<'de> Deserialize<'de> for Who {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Who, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Who;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, \"Name <address>\", or {\"name\", \"address\"}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Who, E> {
                Ok(Who(mailbox(text)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Who, A::Error> {
                let Named { name, address } = Named::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Who(Mailbox { name, address }))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        struct ByName<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ByName<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        // By any: the error then stands at the value, where `place` looks for it.
        deserializer.deserialize_any(ByName(PhantomData))
    }
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> List<T, MAX> {
        List(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<List<T, MAX>, D::Error> {
        struct OneByOne<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for OneByOne<T, MAX> {
            type Value = List<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<List<T, MAX>, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    if elements.len() == MAX {
                        return Err(de::Error::custom(format_args!("at most {MAX}")));
                    }
                    elements.push(element);
                }
                Ok(List(elements))
            }
        }

        deserializer.deserialize_seq(OneByOne(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("header fields by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields: Vec<(String, String)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if fields.iter().any(|(known, _)| *known == name) {
                        return Err(de::Error::custom(format_args!("duplicate field `{name}`")));
                    }
                    if fields.len() == FIELDS_MAX {
                        return Err(de::Error::custom(format_args!("at most {FIELDS_MAX} fields")));
                    }
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Octets, D::Error> {
        struct Decoded;

        impl Visitor<'_> for Decoded {
            type Value = Octets;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Octets, E> {
                let octets = BASE64.decode(text).map_err(|error| E::custom(format_args!("no base64: {error}")))?;
                Ok(Octets(octets.into()))
            }
        }

        deserializer.deserialize_str(Decoded)
    }
}

impl utoipa::PartialSchema for Who {
    fn schema() -> RefOr<Schema> {
        openapi::mailbox()
    }
}

impl ToSchema for Who {
    fn name() -> Cow<'static, str> {
        "Mailbox".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mailboxes_as_typed() {
        for (text, name, address) in [
            ("a@b", None, "a@b"),
            (" Ann Lee <a@b> ", Some("Ann Lee"), "a@b"),
            ("<a@b>", Some(""), "a@b"),
            (r#""A \\ \"B\"" <a@b>"#, Some(r#"A \ "B""#), "a@b"),
            ("A < B <a@b>", Some("A < B"), "a@b"),
            ("a@b>", None, "a@b>"),
        ] {
            assert_eq!(mailbox(text), Mailbox { name: name.map(str::to_owned), address: address.into() }, "{text}");
        }
    }
}
