use std::io::Write;

use base64::Engine;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};

use super::*;

const DMARC: &str = r#"<?xml version="1.0"?><!DOCTYPE feedback><!-- x --><feedback xmlns="urn:x">
<version>1.0</version><report_metadata><org_name>R &amp; D</org_name><email>d@them.example</email><report_id>7</report_id>
<date_range><begin>1700000000</begin><end>1700086400</end></date_range></report_metadata>
<policy_published><domain>Us.example</domain><p>reject</p></policy_published>
<record><row><source_ip>192.0.2.1</source_ip><count>5</count><policy_evaluated><disposition>none</disposition><dkim>pass</dkim><spf>fail</spf></policy_evaluated></row><identifiers><header_from>us.example</header_from></identifiers><auth_results><spf><result>none</result></spf></auth_results></record>
<record><row><count>2</count><policy_evaluated><disposition>reject</disposition><dkim>fail</dkim><spf>fail</spf><reason/></policy_evaluated></row></record>
</feedback>"#;

const TLS: &str = r#"{"organization-name":"T","date-range":{"start-datetime":"2026-01-01T00:00:00Z","end-datetime":"2026-01-01T23:59:59Z"},
"contact-info":"t@them.example","report-id":"9","policies":[{"policy":{"policy-type":"sts","policy-string":["x"],"policy-domain":"us.example","mx-host":["*"]},
"summary":{"total-successful-session-count":10,"total-failure-session-count":3},"failure-details":[
{"result-type":"certificate-expired","failed-session-count":2,"sending-mta-ip":"x"},{"result-type":"strange","failed-session-count":1}]}]}"#;

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::best());
    out.write_all(text).unwrap();
    out.finish().unwrap()
}

fn zip(name: &str, text: &[u8], streamed: bool) -> Vec<u8> {
    let mut out = DeflateEncoder::new(Vec::new(), Compression::best());
    out.write_all(text).unwrap();
    let data = out.finish().unwrap();
    let size = if streamed { 0 } else { data.len() as u32 };
    let mut all = b"PK\x03\x04\x14\0".to_vec();
    all.extend([if streamed { 8 } else { 0 }, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    all.extend(size.to_le_bytes());
    all.extend([0; 4]);
    all.extend((name.len() as u16).to_le_bytes());
    all.extend([0, 0]);
    all.extend(name.as_bytes());
    all.extend(data);
    all
}

fn mail(kind: &str, file: &str, octets: &[u8]) -> Vec<u8> {
    let text = base64::engine::general_purpose::STANDARD.encode(octets);
    format!(
        "Subject: Report\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\nhello\n--b\nContent-Type: {kind}\n\
         Content-Disposition: attachment; filename=\"{file}\"\nContent-Transfer-Encoding: base64\n\n{text}\n--b--\n"
    )
    .into_bytes()
}

#[test]
fn sums_an_aggregate() {
    let Ok(Report::Dmarc(sums)) = read_file(DMARC.as_bytes()) else { panic!("no report") };
    assert_eq!((&*sums.org, &*sums.domain, &*sums.policy), ("R & D", "us.example", "reject"));
    assert_eq!((sums.begin, sums.end, sums.rows, sums.messages), (1_700_000_000, 1_700_086_400, 2, 7));
    assert_eq!((sums.none, sums.quarantine, sums.reject), (5, 0, 2));
    assert_eq!(sums.dkim, Share { pass: 5, fail: 2 });
    assert_eq!(sums.spf, Share { pass: 0, fail: 7 });
    assert_eq!(sums.dmarc, Share { pass: 5, fail: 2 });
}

#[test]
fn sums_a_tls_report() {
    let Ok(Report::Tls(sums)) = read_file(TLS.as_bytes()) else { panic!("no report") };
    let [policy] = &sums.policies[..] else { panic!("one policy") };
    assert_eq!((&*sums.org, &*policy.domain, &*policy.kind), ("T", "us.example", "sts"));
    assert_eq!((policy.success, policy.failure), (10, 3));
    assert_eq!(policy.failures, [("certificate-expired".to_owned(), 2), ("other".to_owned(), 1)].into());
}

#[test]
fn finds_it_however_it_is_packed() {
    for (text, ending) in [(DMARC, "xml"), (TLS, "json")] {
        let expected = read_file(text.as_bytes());
        assert!(expected.is_ok());
        let (plain, text) = (text.as_bytes(), text.as_bytes());
        for (kind, file, octets) in [
            ("application/gzip", "x.gz".to_owned(), gzip(text)),
            ("application/tlsrpt+gzip", String::new(), gzip(text)),
            ("application/octet-stream", format!("x.{ending}.gz"), gzip(text)),
            ("application/zip", "x.zip".into(), zip("x", text, false)),
            ("application/x-zip-compressed", String::new(), zip("x", text, true)),
            ("application/zip", "x.zip".into(), [zip("d/", b"", false), zip("x", text, false)].concat()),
            ("text/xml", String::new(), plain.to_vec()),
            ("text/plain", format!("x.{ending}"), plain.to_vec()),
        ] {
            assert_eq!(read(&mail(kind, &file, &octets)), expected, "{kind} {file}");
        }
        let alone = format!("Content-Type: application/tlsrpt+json\n\n{}", String::from_utf8_lossy(text));
        assert_eq!(read(alone.as_bytes()), expected);
    }
    assert_eq!(read(b"Subject: x\n\nhello\n"), Err(ReportError::None));
    assert_eq!(read(&mail("application/zip", "x.zip", b"PK\x03\x04")), Err(ReportError::Packed));
    assert_eq!(read(&mail("application/gzip", "", b"no gzip")), Err(ReportError::Malformed));
}

#[test]
fn bombs_do_not_go_off() {
    let zeros = vec![b' '; UNPACKED_MAX + (1 << 20)];
    assert_eq!(read_file(&gzip(&zeros)), Err(ReportError::TooLarge));
    assert_eq!(read_file(&zip("x", &zeros, false)), Err(ReportError::TooLarge));
    assert_eq!(read_file(&gzip(&gzip(DMARC.as_bytes()))), Err(ReportError::Malformed), "packed twice");
    assert_eq!(read_file(&vec![b'<'; PACKED_MAX + 1]), Err(ReportError::TooLarge));
    let deep = format!("<feedback>{}", "<a>".repeat(100_000));
    assert_eq!(read_file(deep.as_bytes()), Err(ReportError::Malformed));
    let deep = format!("{{\"policies\":{}", "[".repeat(100_000));
    assert_eq!(read_file(deep.as_bytes()), Err(ReportError::Malformed));
    // Entities that grow are not known, and so stay as they are.
    let laughs = format!("<!DOCTYPE lolz [<!ENTITY lol \"lol\">]>{DMARC}");
    assert_eq!(read_file(laughs.as_bytes()), Err(ReportError::Malformed));
    let many = format!("PK\x03\x04{}", "\0".repeat(26)).repeat(100_000);
    assert!(read_file(many.as_bytes()).is_err());
    let huge = DMARC.replace("<count>5", "<count>18446744073709551615");
    assert!(matches!(read_file(huge.as_bytes()), Ok(Report::Dmarc(sums)) if sums.messages == u64::MAX));
}

#[test]
fn what_is_no_report_is_not_taken_for_one() {
    for text in [
        "<feedback></feedback>",
        "<html></html>",
        "<feedback><a></b></feedback>",
        "<feedback",
        "{}",
        "x",
        "",
        "<",
        "</feedback>",
    ] {
        assert_eq!(read_file(text.as_bytes()), Err(ReportError::Malformed), "{text}");
    }
}
