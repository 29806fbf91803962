//! Walks XML as reports have it: elements and text. No tree, no entities of its own, no documents elsewhere; so deep and no
//! deeper.

use std::borrow::Cow;

use memchr::{memchr, memmem};

/// Elements within elements.
const DEPTH_MAX: usize = 16;

/// Octets of a name or a text that are kept.
const TEXT_MAX: usize = 1_000;

/// What a walk meets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// An element begins: [`Walk::path`] ends with its name.
    Begin,
    /// Text within the innermost element, entities replaced.
    Text(Cow<'a, str>),
    /// An element ends; its name is still the last of the path.
    End,
}

/// The XML cannot be followed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost;

/// A walk. Elements that are closed in the wrong order are an error.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    rest: &'a [u8],
    path: Vec<&'a [u8]>,
    /// The innermost element ends with the next step: it is empty, or its end was told.
    leaving: bool,
    closing: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(text: &'a [u8]) -> Walk<'a> {
        Walk { rest: text, path: Vec::new(), leaving: false, closing: false }
    }

    /// The names of the elements around, from the outermost, without prefixes.
    pub(super) fn path(&self) -> &[&'a [u8]] {
        &self.path
    }

    /// The next step; `None` at the end.
    pub(super) fn next(&mut self) -> Option<Result<Step<'a>, Lost>> {
        if std::mem::take(&mut self.leaving) {
            self.path.pop();
        }
        if std::mem::take(&mut self.closing) {
            self.leaving = true;
            return Some(Ok(Step::End));
        }
        loop {
            let open = match memchr(b'<', self.rest) {
                Some(0) => 0,
                Some(open) => {
                    let text = &self.rest[..open];
                    self.rest = &self.rest[open..];
                    if let Some(text) = said(text) {
                        return Some(Ok(Step::Text(text)));
                    }
                    0
                }
                None => return (!self.path.is_empty()).then_some(Err(Lost)),
            };
            let tag = &self.rest[open..];
            if let Some(data) = tag.strip_prefix(b"<![CDATA[") {
                let Some(end) = memmem::find(data, b"]]>") else { return Some(Err(Lost)) };
                self.rest = &data[end + 3..];
                let text = &data[..end.min(TEXT_MAX)];
                return Some(Ok(Step::Text(String::from_utf8_lossy(text))));
            }
            let behind: Option<usize> = if tag.starts_with(b"<!--") {
                memmem::find(tag, b"-->").map(|end| end + 3)
            } else if tag.starts_with(b"<?") {
                memmem::find(tag, b"?>").map(|end| end + 2)
            } else if tag.starts_with(b"<!") {
                // A document type; one with definitions of its own is no report.
                memchr(b'>', tag).filter(|end| memchr(b'[', &tag[..*end]).is_none()).map(|end| end + 1)
            } else {
                return Some(self.element());
            };
            let Some(behind) = behind else { return Some(Err(Lost)) };
            self.rest = &tag[behind..];
        }
    }

    fn element(&mut self) -> Result<Step<'a>, Lost> {
        let end = memchr(b'>', self.rest).ok_or(Lost)?;
        let tag = &self.rest[1..end];
        self.rest = &self.rest[end + 1..];
        let (tag, ends) = tag.strip_prefix(b"/").map_or((tag, false), |tag| (tag, true));
        let (tag, empty) = tag.strip_suffix(b"/").map_or((tag, false), |tag| (tag, true));
        let name = tag.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let name = name.rsplit(|b| *b == b':').next().unwrap_or_default();
        if name.is_empty() || name.len() > TEXT_MAX {
            return Err(Lost);
        }
        if ends {
            self.leaving = true;
            return if self.path.last() == Some(&name) { Ok(Step::End) } else { Err(Lost) };
        }
        if self.path.len() == DEPTH_MAX {
            return Err(Lost);
        }
        self.path.push(name);
        self.closing = empty;
        Ok(Step::Begin)
    }
}

/// Text with its five entities and numbers replaced; `None`: white space only.
fn said(text: &[u8]) -> Option<Cow<'_, str>> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return None;
    }
    let text = String::from_utf8_lossy(&text[..text.len().min(TEXT_MAX)]);
    if !text.contains('&') {
        return Some(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let named = rest[at + 1..].split_once(';').filter(|(name, _)| name.len() <= 8);
        let replaced = named.and_then(|(name, behind)| Some((entity(name)?, behind)));
        match replaced {
            Some((c, behind)) => {
                out.push(c);
                rest = behind;
            }
            None => {
                out.push('&');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    Some(Cow::Owned(out))
}

fn entity(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let hex = number.strip_prefix(['x', 'X']);
            let code = hex.map_or_else(|| number.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok())?;
            char::from_u32(code)
        }
    }
}
