//! What a receiver says in its reply to EHLO that it can do.

/// Capabilities we make use of (RFC 5321 §4.1.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Capabilities {
    /// RFC 2920.
    pub(super) pipelining: bool,
    /// RFC 3030.
    pub(super) chunking: bool,
    /// RFC 6152.
    pub(super) eight_bit_mime: bool,
    /// RFC 6531.
    pub(super) smtputf8: bool,
    /// RFC 3207.
    pub(super) starttls: bool,
    /// RFC 3461.
    pub(super) dsn: bool,
    /// RFC 1870: offered at all.
    pub(super) size: bool,
    /// RFC 1870: the largest message taken, if the receiver gave a number other than 0.
    pub(super) size_max: Option<u64>,
    /// RFC 9422: most recipients in one transaction.
    pub(super) recipients_max: Option<usize>,
    /// RFC 4954, as far as we speak it.
    pub(super) auth_plain: bool,
    /// `AUTH LOGIN`.
    pub(super) auth_login: bool,
}

impl Capabilities {
    /// Reads the lines of the reply; the first is the receiver's name and greeting. What it does not know it skips.
    pub(super) fn parse(text: &str) -> Capabilities {
        let mut capabilities = Capabilities::default();
        for line in text.split('\n').skip(1) {
            // `AUTH=LOGIN` is how some old servers write it.
            let mut words = line.split([' ', '=']).filter(|word| !word.is_empty());
            let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
            match keyword.as_str() {
                "PIPELINING" => capabilities.pipelining = true,
                "CHUNKING" => capabilities.chunking = true,
                "8BITMIME" => capabilities.eight_bit_mime = true,
                "SMTPUTF8" => capabilities.smtputf8 = true,
                "STARTTLS" => capabilities.starttls = true,
                "DSN" => capabilities.dsn = true,
                "SIZE" => {
                    capabilities.size = true;
                    capabilities.size_max = words.next().and_then(|word| word.parse().ok()).filter(|max| *max > 0);
                }
                "LIMITS" => capabilities.recipients_max = recipients_max(line),
                "AUTH" => {
                    for mechanism in words {
                        capabilities.auth_plain |= mechanism.eq_ignore_ascii_case("PLAIN");
                        capabilities.auth_login |= mechanism.eq_ignore_ascii_case("LOGIN");
                    }
                }
                _ => {}
            }
        }
        capabilities
    }
}

/// `LIMITS MAILMAX=20 RCPTMAX=100` (RFC 9422 §4).
fn recipients_max(line: &str) -> Option<usize> {
    let limits = line.split(' ').filter_map(|word| word.split_once('='));
    let mut named = limits.filter(|(name, _)| name.eq_ignore_ascii_case("RCPTMAX"));
    named.next().and_then(|(_, value)| value.parse().ok()).filter(|max| *max > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_receivers_say() {
        let gmail = "mx.google.com at your service\nSIZE 157286400\n8BITMIME\nSTARTTLS\nENHANCEDSTATUSCODES\nPIPELINING\nCHUNKING\nSMTPUTF8";
        let all = Capabilities::parse(gmail);
        assert!(all.pipelining && all.chunking && all.eight_bit_mime && all.smtputf8 && all.starttls && all.size);
        assert_eq!((all.size_max, all.dsn, all.recipients_max), (Some(157_286_400), false, None));

        let odd = Capabilities::parse(
            "x\nsize 0\nAUTH=LOGIN plain\ndsn\nLIMITS MAILMAX=5 RCPTMAX=50\nXSIZE 5\n\n PIPELINING",
        );
        assert!(odd.size && odd.auth_plain && odd.auth_login && odd.dsn && odd.pipelining);
        assert_eq!((odd.size_max, odd.recipients_max), (None, Some(50)));

        assert_eq!(Capabilities::parse("CHUNKING is a fine name"), Capabilities::default());
        assert_eq!(Capabilities::parse("x\nSIZE 99999999999999999999999").size_max, None);
        assert_eq!(Capabilities::parse("x\nLIMITS RCPTMAX=0 =").recipients_max, None);
    }
}
