//! CSV (RFC 4180), a line a row: which columns there are, and what stands in them.

use std::borrow::Cow;

use super::text::EntryText;

/// What stands in which column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Columns(Vec<Column>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    /// An address, `@DOMAIN`, or a hash.
    Subject,
    Domain,
    Hash,
    Scope,
    Tenant,
    List,
    Reason,
    Evidence,
    Source,
    Since,
    Until,
}

/// The columns of an export, in order.
pub(super) const HEADER: &str = "address,scope,reason,evidence,source,since,until\n";

impl Column {
    fn named(name: &str) -> Option<Column> {
        Some(match name.trim().to_ascii_lowercase().as_str() {
            "address" | "email" | "recipient" | "subject" => Column::Subject,
            "domain" => Column::Domain,
            "hash" | "sha256" => Column::Hash,
            "scope" => Column::Scope,
            "tenant" => Column::Tenant,
            "list" => Column::List,
            "reason" => Column::Reason,
            "evidence" => Column::Evidence,
            "source" => Column::Source,
            "since" => Column::Since,
            "until" => Column::Until,
            _ => return None,
        })
    }
}

impl Columns {
    /// Of a file without a header: who is meant stands first.
    pub(super) fn plain() -> Columns {
        Columns(vec![Column::Subject])
    }

    /// `None`: the line is no header. `Err`: it is one, with a column that nobody knows.
    pub(super) fn of_header(line: &str) -> Option<Result<Columns, String>> {
        let fields = fields(line).ok()?;
        let unknown = fields.iter().find(|name| Column::named(name).is_none());
        let known: Vec<Column> = fields.iter().filter_map(|name| Column::named(name)).collect();
        match unknown {
            None => Some(Ok(Columns(known))),
            // A line of addresses has none of these words.
            Some(_) if known.is_empty() => None,
            Some(unknown) => Some(Err(format!("the header names an unknown column {unknown:?}"))),
        }
    }

    /// What a line says; empty fields say nothing.
    pub(super) fn read<'a>(&self, line: &'a str) -> Result<EntryText<'a>, String> {
        let mut text = EntryText::default();
        let fields = fields(line)?;
        if fields.len() > self.0.len() {
            return Err(format!("{} fields in a row of {}", fields.len(), self.0.len()));
        }
        for (column, field) in self.0.iter().zip(fields) {
            let field = trim(field);
            if field.is_empty() {
                continue;
            }
            let place = match column {
                Column::Subject if field.starts_with('@') => &mut text.domain,
                Column::Subject if field.starts_with("sha256:") || field.len() == 64 && !field.contains('@') => {
                    &mut text.hash
                }
                Column::Subject => &mut text.address,
                Column::Domain => &mut text.domain,
                Column::Hash => &mut text.hash,
                Column::Scope => &mut text.scope,
                Column::Tenant => &mut text.tenant,
                Column::List => &mut text.list,
                Column::Reason => &mut text.reason,
                Column::Evidence => &mut text.evidence,
                Column::Source => &mut text.source,
                Column::Since => &mut text.since,
                Column::Until => &mut text.until,
            };
            *place = Some(field);
        }
        Ok(text)
    }
}

fn trim(field: Cow<'_, str>) -> Cow<'_, str> {
    match field {
        Cow::Borrowed(field) => Cow::Borrowed(field.trim()),
        owned => owned,
    }
}

type Fields<'a> = smallvec::SmallVec<[Cow<'a, str>; 8]>;

/// The fields of a line. One in quotes may hold commas and, doubled, quotes; not the end of a line.
fn fields(line: &str) -> Result<Fields<'_>, String> {
    let mut fields = Fields::new();
    let mut rest = line;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            match rest.split_once(',') {
                Some((field, more)) => {
                    fields.push(field.into());
                    rest = more;
                    continue;
                }
                None => {
                    fields.push(rest.into());
                    return Ok(fields);
                }
            }
        };
        let mut field = String::new();
        let mut left = quoted;
        loop {
            let (part, after) = left.split_once('"').ok_or("a quote is not closed within its line")?;
            field.push_str(part);
            left = after;
            match left.strip_prefix('"') {
                Some(after) => {
                    field.push('"');
                    left = after;
                }
                None => break,
            }
        }
        fields.push(field.into());
        match left.strip_prefix(',') {
            Some(more) => rest = more,
            None if left.is_empty() => return Ok(fields),
            None => return Err("text behind a closing quote".into()),
        }
    }
}

/// Appends an entry as a row below [`HEADER`].
pub(super) fn write(out: &mut String, entry: &super::Entry) {
    let until = entry.until.map(|until| until.to_string()).unwrap_or_default();
    let (subject, scope, since) = (entry.subject.to_string(), entry.scope.to_string(), entry.since.to_string());
    let fields = [&*subject, &*scope, entry.reason.as_str(), &*entry.evidence, &*entry.source, &*since, &*until];
    for (at, field) in fields.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        if field.contains([',', '"']) || field.trim() != field {
            out.push('"');
            out.push_str(&field.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(field);
        }
    }
    out.push('\n');
}
