//! Reply texts made comparable, and the codes found in them.

use crate::mail::EnhancedCode;

/// As much of a text is looked at, in bytes: a cause stands near the front.
const LOOKED_AT: usize = 16 * 1024;

/// Lower case without accents, each run of white space one space, one space at either end; without the codes that stand at
/// the front of every line of a reply, and with `@` for every address: what somebody's address is called says nothing.
pub fn comparable(text: &str) -> String {
    let text = &text[..text.floor_char_boundary(LOOKED_AT)];
    let mut made = String::with_capacity(text.len() + 2);
    made.push(' ');
    for word in text.split_whitespace() {
        let word = without_codes(word);
        if word.is_empty() {
            continue;
        }
        if word.contains('@') {
            push_without_address(&mut made, word);
        } else {
            word.chars().for_each(|c| push_folded(&mut made, c));
        }
        made.push(' ');
    }
    made
}

/// The reply code and the enhanced code that come first in a text. `550 5.1.1 no`, `host mx said: 550-5.1.1 no`, `#5.1.1`.
pub fn codes(text: &str) -> (Option<u16>, Option<EnhancedCode>) {
    let (mut reply, mut enhanced) = (None, None);
    for word in text[..text.floor_char_boundary(LOOKED_AT)].split_whitespace() {
        // `CODE:550`, `(#5.1.1)`, `550_5.1.1`, `554-5.7.1`.
        let shell = |c: char| !c.is_ascii_digit();
        for piece in word.split([':', '_', '-', ';', '\'', '"', '(', '<', '=', ',']) {
            let piece = piece.trim_matches(shell);
            if enhanced.is_none() && (5..=9).contains(&piece.len()) && !word.contains('[') {
                enhanced = piece.parse().ok().filter(|code: &EnhancedCode| code.1 <= 7 && !is_address(word));
            }
        }
        if reply.is_none() {
            reply = reply_code(word);
        }
        if reply.is_some() && enhanced.is_some() {
            break;
        }
    }
    // Another reply's: `450 ... 5.1.1`.
    let agrees = |code: &EnhancedCode| reply.is_none_or(|reply| u16::from(code.0) == reply / 100);
    (reply, enhanced.filter(agrees).or(enhanced.filter(|_| reply.is_none_or(|code| code == 250))))
}

/// Four numbers are an IPv4 address, not a code.
fn is_address(word: &str) -> bool {
    word.bytes().filter(|b| *b == b'.').count() >= 3 && !word.contains('(')
}

/// `550`, `550-text`, `'550`, `said:550`, `CODE:550`.
fn reply_code(word: &str) -> Option<u16> {
    let start = word.rfind([':', '\'', '"', '<', '(', '#']).map_or(0, |at| at + 1);
    [word, &word[start..]].into_iter().find_map(|word| {
        let digits = word.get(..3)?;
        let code: u16 = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())??;
        let ends = word.as_bytes().get(3).is_none_or(|b| matches!(b, b'-' | b':' | b',' | b'.' | b'\'' | b';' | b'_' | b')'));
        let plausible = matches!(code, 421 | 422 | 431 | 432 | 441..=447 | 449..=455 | 471 | 500..=504 | 510..=515 | 521..=525 | 530..=535 | 538 | 541 | 550..=559 | 571 | 250);
        // `550.2`: a number, no code.
        let number = word.as_bytes().get(3) == Some(&b'.') && word.as_bytes().get(4).is_some_and(u8::is_ascii_digit);
        (ends && plausible && !number).then_some(code)
    })
}

/// What is left of a word when codes in front of it are gone: nothing of `550`, `550-5.1.1` and `5.1.1`.
fn without_codes(word: &str) -> &str {
    let mut rest = word;
    if let Some(code) = rest.get(..3)
        && reply_code(code).is_some()
        && matches!(rest.as_bytes().get(3), None | Some(b'-' | b'_'))
    {
        rest = rest.get(4..).unwrap_or_default();
    }
    if rest.parse::<EnhancedCode>().is_ok() { "" } else { rest }
}

/// `<a@b>...` gives `<@>...`.
fn push_without_address(made: &mut String, word: &str) {
    let part = |c: char| c.is_alphanumeric() || "!#$%&*+-/=?^_`{|}~.@".contains(c);
    for piece in word.split_inclusive(|c: char| !part(c)) {
        let address = piece.trim_end_matches(|c: char| !part(c));
        if address.contains('@') {
            made.push('@');
            piece[address.len()..].chars().for_each(|c| push_folded(made, c));
        } else {
            piece.chars().for_each(|c| push_folded(made, c));
        }
    }
}

/// The letter without case and accent.
fn push_folded(made: &mut String, c: char) {
    let folded = match c {
        'A'..='Z' => c.to_ascii_lowercase(),
        '\0'..='\x7f' => c,
        'à' | 'á' | 'â' | 'ã' | 'å' | 'À' | 'Á' | 'Â' | 'Ã' | 'Å' | 'ą' | 'ă' => 'a',
        'ç' | 'Ç' | 'ć' | 'č' => 'c',
        'ď' => 'd',
        'è' | 'é' | 'ê' | 'ë' | 'È' | 'É' | 'Ê' | 'Ë' | 'ę' | 'ě' => 'e',
        'ì' | 'í' | 'î' | 'ï' | 'Í' | 'ı' | 'İ' => 'i',
        'ñ' | 'Ñ' | 'ń' | 'ň' => 'n',
        'ò' | 'ó' | 'ô' | 'õ' | 'ø' | 'Ó' | 'Ô' | 'Õ' | 'ő' => 'o',
        'ř' => 'r',
        'ś' | 'š' | 'ş' | 'ș' | 'Ś' | 'Š' => 's',
        'ť' | 'ţ' | 'ț' => 't',
        'ý' => 'y',
        'ź' | 'ż' | 'ž' | 'Ż' | 'Ž' => 'z',
        'ğ' => 'g',
        'ù' | 'ú' | 'û' | 'Ú' | 'ů' | 'ű' => 'u',
        'ä' | 'Ä' => return made.push_str("ae"),
        'ö' | 'Ö' => return made.push_str("oe"),
        'ü' | 'Ü' => return made.push_str("ue"),
        'ß' => return made.push_str("ss"),
        'æ' | 'Æ' => return made.push_str("ae"),
        'ł' | 'Ł' => 'l',
        '\u{2018}' | '\u{2019}' => '\'',
        '\u{201c}' | '\u{201d}' => '"',
        '\u{2010}'..='\u{2015}' => '-',
        _ => return c.to_lowercase().for_each(|c| made.push(c)),
    };
    made.push(folded);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_texts_comparable() {
        for (text, expected) in [
            ("550-5.1.1 The email\r\n550 5.1.1 account", " the email account "),
            ("<spam@Example.com>... User\tUnknown", " <@>... user unknown "),
            ("Boîte pleine, Empfänger’s", " boite pleine, empfaenger's "),
            ("", " "),
            ("@ a@ @b", " @ @ @ "),
        ] {
            assert_eq!(comparable(text), expected);
        }
    }

    #[test]
    fn finds_codes() {
        for (text, reply, enhanced) in [
            ("550 5.1.1 no", Some(550), Some("5.1.1")),
            ("host a[192.0.2.5] said: 550-5.1.1 no", Some(550), Some("5.1.1")),
            ("sorry (#5.1.2)", None, Some("5.1.2")),
            ("from [10.5.1.1] 554 spam", Some(554), None),
            ("5.5.1.1", None, None),
            ("ERROR_CODE :550, ERROR_CODE :5.2.1 <a@b>", Some(550), Some("5.2.1")),
            ("450 busy, then 5.1.1", Some(450), None),
            ("", None, None),
        ] {
            assert_eq!(codes(text), (reply, enhanced.and_then(|code| code.parse().ok())), "{text}");
        }
    }
}
