//! What kind of file an attachment is said to be.

use mail_builder::headers::content_type::ContentType;

/// Longest media type with its parameters, in octets.
const LENGTH_MAX: usize = 255;

/// Reads `type/subtype; name=value; name="value"` (RFC 2045 §5.1).
///
/// # Errors
/// What would be right.
pub(super) fn read(text: &str) -> Result<ContentType<'static>, &'static str> {
    const WRONG: &str = "must be a media type such as image/png or text/csv; charset=utf-8 (RFC 2045 §5.1)";
    if text.len() > LENGTH_MAX || !text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return Err(WRONG);
    }
    let (essence, mut rest) = text.split_once(';').map_or((text, ""), |(essence, rest)| (essence, rest.trim_start()));
    let (kind, subtype) = essence.trim().split_once('/').ok_or(WRONG)?;
    if !is_token(kind) || !is_token(subtype) {
        return Err(WRONG);
    }
    if kind.eq_ignore_ascii_case("multipart") {
        return Err("must not be multipart; attach the parts");
    }
    let mut content_type = ContentType::new(format!("{kind}/{subtype}").to_ascii_lowercase());
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=').ok_or(WRONG)?;
        let (value, behind) = match value.strip_prefix('"') {
            Some(quoted) => quoted_string(quoted).ok_or(WRONG)?,
            None => {
                let end = value.find(';').unwrap_or(value.len());
                let token = value[..end].trim_end();
                if !is_token(token) {
                    return Err(WRONG);
                }
                (token.to_owned(), &value[end..])
            }
        };
        let name = name.to_ascii_lowercase();
        let twice = content_type.attributes.iter().any(|(known, _)| *known == name);
        // The file's name has a field of its own, and no boundary may stand where there are no parts.
        if !is_token(&name) || name.contains('*') || twice || name == "name" || name == "boundary" {
            return Err(WRONG);
        }
        content_type = content_type.attribute(name, value);
        let behind = behind.trim_start();
        rest = match behind.strip_prefix(';') {
            Some(rest) => rest.trim_start(),
            None if behind.is_empty() => behind,
            None => return Err(WRONG),
        };
    }
    Ok(content_type)
}

/// A token (RFC 2045 §5.1).
fn is_token(text: &str) -> bool {
    let special = |b: &u8| b"()<>@,;:\\\"/[]?=".contains(b);
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !special(&b))
}

/// The content of a quoted string whose opening quote is gone, and what lies behind it.
fn quoted_string(text: &str) -> Option<(String, &str)> {
    let mut content = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((content, &text[at + 1..])),
            '\\' => content.push(characters.next()?.1),
            _ => content.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Option<String> {
        let read = read(text).ok()?;
        let attributes = read.attributes.iter().map(|(name, value)| format!("; {name}={value}"));
        Some(format!("{}{}", read.c_type, attributes.collect::<String>()))
    }

    #[test]
    fn reads_media_types() {
        for (text, expected) in [
            ("image/png", "image/png"),
            ("Text/CSV; Charset=UTF-8", "text/csv; charset=UTF-8"),
            ("text/calendar;method=REQUEST ; charset=\"utf-8\";", "text/calendar; method=REQUEST; charset=utf-8"),
            (r#"a/b; c="d;\"e\"""#, "a/b; c=d;\"e\""),
            ("application/vnd.ms-excel", "application/vnd.ms-excel"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(expected), "{text}");
        }
        for bad in [
            "",
            "png",
            "image/",
            "/png",
            "a/b/c",
            "a/b; c",
            "a/b; c=",
            "a/b; c=\"d",
            "a/b; c=d e",
            "a/b\r\nX: y",
            "a/b; c=d; c=e",
            "a/b; boundary=x",
            "a/b; name=x",
            "multipart/mixed",
            "ä/b",
            "a/b; c*=x",
            "a b/c",
            "a/b; c=\"d\"e",
        ] {
            assert_eq!(shown(bad), None, "{bad}");
        }
        assert!(read(&format!("a/{}", "b".repeat(300))).is_err());
    }
}
