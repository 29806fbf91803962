//! Where in a JSON text something stands: `to[2].name` instead of line and column.

/// The path of the value at, or just before, `line` and `column` as serde_json counts them (from 1, in octets). Empty at
/// the top. Takes any octets; where they are no JSON, the path is that of what came before.
pub(super) fn path(json: &[u8], line: usize, column: usize) -> String {
    let start = match line {
        0 | 1 => 0,
        _ => memchr::memchr_iter(b'\n', json).nth(line - 2).map_or(json.len(), |at| at + 1),
    };
    let end = start.saturating_add(column).min(json.len());
    let mut walk = Walk::default();
    walk.read(&json[..end]);
    walk.path()
}

#[derive(Default)]
struct Walk<'a> {
    frames: Vec<Frame<'a>>,
}

enum Frame<'a> {
    /// With the last key read, its quotes excluded.
    Object {
        key: Option<&'a [u8]>,
        expects_key: bool,
    },
    Array {
        index: usize,
    },
}

impl<'a> Walk<'a> {
    fn read(&mut self, json: &'a [u8]) {
        let mut at = 0;
        while let Some(&octet) = json.get(at) {
            let last = at + 1 == json.len();
            match octet {
                b'{' => self.frames.push(Frame::Object { key: None, expects_key: true }),
                // An array that was only begun is itself what is wrong.
                b'[' if !last => self.frames.push(Frame::Array { index: 0 }),
                b'}' | b']' => _ = self.frames.pop(),
                // What is wrong stands in front of a comma that was only looked at.
                b',' if !last => match self.frames.last_mut() {
                    Some(Frame::Object { key, expects_key }) => (*key, *expects_key) = (None, true),
                    Some(Frame::Array { index }) => *index += 1,
                    None => {}
                },
                b'"' => {
                    let end = string_end(json, at + 1);
                    if let Some(Frame::Object { key, expects_key: expects_key @ true }) = self.frames.last_mut() {
                        *key = Some(&json[at + 1..end]);
                        *expects_key = false;
                    }
                    at = end;
                }
                _ => {}
            }
            at += 1;
        }
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.frames {
            match frame {
                Frame::Object { key: None, .. } => {}
                Frame::Object { key: Some(key), .. } => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    // Our own names are short; a longer one is foreign and needs no more to be recognised.
                    let key = String::from_utf8_lossy(&key[..key.len().min(80)]);
                    path.extend(key.chars().map(|c| if c.is_control() { '?' } else { c }));
                }
                Frame::Array { index } => path.push_str(&format!("[{index}]")),
            }
        }
        path
    }
}

/// Where the string that starts at `at` ends: the place of its closing quote, or the end of the text.
fn string_end(json: &[u8], mut at: usize) -> usize {
    while let Some(found) = memchr::memchr2(b'"', b'\\', json.get(at..).unwrap_or_default()) {
        at += found;
        if json[at] == b'"' {
            return at;
        }
        at += 2;
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The place is marked by `^`, behind what serde_json read last.
    #[track_caller]
    fn check(marked: &str, expected: &str) {
        let at = marked.find('^').expect("a mark");
        let json = marked.replace('^', "");
        let line = json[..at].matches('\n').count() + 1;
        let column = at - json[..at].rfind('\n').map_or(0, |at| at + 1);
        assert_eq!(path(json.as_bytes(), line, column), expected, "{marked}");
    }

    #[test]
    fn finds_the_path() {
        check("{\"a\": 1^}", "a");
        check("{\"a\"^: 1}", "a");
        check("{\"a\": [1, {\"b\\\"c\":\n \"d\",\n \"e\": tru^e}]}", "a[1].e");
        check("{\"a\": {\"x,{[\": 1}, \"b\": [[], [2, 3^]]}", "b[1][1]");
        check("{\"a\": {\"b\": 1}^}", "a");
        check("{\"a\": [^1]}", "a");
        check("{\"a\": 1, ^", "");
        check("^", "");
        check("{\"a\": \"open^", "a");
    }

    proptest! {
        #[test]
        fn any_octets_have_a_path(json in "[{}\\[\\]\",:\\\\a\n]{0,40}", line in 0usize..5, column in 0usize..50) {
            path(json.as_bytes(), line, column);
        }
    }
}
