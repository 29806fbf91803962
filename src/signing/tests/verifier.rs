//! A verifier that shares nothing with the signer but the hash function: RFC 6376 §6.1 for relaxed/relaxed, read plainly
//! and without regard to speed.

use std::collections::BTreeMap;

use mail_auth::common::crypto::HashAlgorithm;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, alg_id};

/// Checks every DKIM-Signature in front of `signed` against the records, by selector. Says how many held, or what did not.
pub fn verify(signed: &[u8], records: &BTreeMap<&str, String>) -> Result<usize, String> {
    let (head, body) = split(signed);
    let fields = fields(&head);
    let signatures = fields.iter().take_while(|(name, _)| name == "dkim-signature").count();
    for (_, value) in &fields[..signatures] {
        let tags = tags(value);
        if sha256(&relaxed_body(&body)) != base64(&tags["bh"]) {
            return Err("the body does not match".into());
        }
        let input = signed_input(&fields[signatures..], value, &tags["h"]);
        check_signature(&tags, &tags_of(records, &tags["s"])?, &input)?;
    }
    Ok(signatures)
}

/// One character per octet, so that text functions work on any bytes.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}

fn octets(text: &str) -> Vec<u8> {
    text.chars().map(|c| c as u8).collect()
}

fn split(message: &[u8]) -> (String, String) {
    let text = latin1(message);
    match text.split_once("\r\n\r\n") {
        Some((head, body)) => (head.to_owned(), body.to_owned()),
        None => (text, String::new()),
    }
}

fn fields(head: &str) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in head.split("\r\n") {
        match fields.last_mut() {
            Some((_, value)) if line.starts_with([' ', '\t']) => value.push_str(line),
            _ => {
                let (name, value) = line.split_once(':').unwrap_or((line, ""));
                fields.push((name.trim_end_matches([' ', '\t']).to_ascii_lowercase(), value.to_owned()));
            }
        }
    }
    fields
}

/// Runs of white space become one space, none at the ends.
fn collapse(text: &str) -> String {
    text.split([' ', '\t']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn relaxed_body(body: &str) -> Vec<u8> {
    let relaxed = |line: &str| {
        let words = collapse(line);
        if line.starts_with([' ', '\t']) && !words.is_empty() { format!(" {words}") } else { words }
    };
    let mut lines: Vec<String> = body.split("\r\n").map(relaxed).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    octets(&lines.iter().map(|line| format!("{line}\r\n")).collect::<String>())
}

/// The fields that `h` names, the lowest of a name first, then the signature itself without its `b=` value.
fn signed_input(fields: &[(String, String)], signature: &str, h: &str) -> Vec<u8> {
    let mut input = String::new();
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    for name in h.split(':').map(|name| name.trim().to_ascii_lowercase()) {
        let nth = taken.entry(name.clone()).or_default();
        if let Some((_, value)) = fields.iter().rev().filter(|(other, _)| *other == name).nth(*nth) {
            input.push_str(&format!("{name}:{}\r\n", collapse(value)));
        }
        *nth += 1;
    }
    let value_at = signature.find(" b=").expect("a b= tag") + 3;
    let end = signature[value_at..].find(';').map_or(signature.len(), |at| value_at + at);
    let without = format!("{}{}", &signature[..value_at], &signature[end..]);
    input.push_str(&format!("dkim-signature:{}", collapse(&without)));
    octets(&input)
}

fn check_signature(
    tags: &BTreeMap<String, String>,
    record: &BTreeMap<String, String>,
    input: &[u8],
) -> Result<(), String> {
    let public = base64(&record["p"]);
    let (algorithm, key, input) = match (tags["a"].as_str(), record["k"].as_str()) {
        // The key proper begins behind 24 octets of a 2048-bit key's SPKI.
        ("rsa-sha256", "rsa") => (alg_id::RSA_PKCS1_SHA256, &public[24..], input.to_vec()),
        ("ed25519-sha256", "ed25519") => (alg_id::ED25519, &public[..], sha256(input)),
        other => return Err(format!("algorithms {other:?}")),
    };
    let known = default_provider().signature_verification_algorithms.all;
    let verifier = known.iter().find(|one| one.signature_alg_id() == algorithm).expect("rustls knows both");
    let held = verifier.verify_signature(key, &input, &base64(&tags["b"]));
    held.map_err(|_| format!("the {} signature does not hold", tags["a"]))
}

fn tags_of(records: &BTreeMap<&str, String>, selector: &str) -> Result<BTreeMap<String, String>, String> {
    records.get(selector).map(|record| tags(record)).ok_or_else(|| format!("no record for {selector}"))
}

/// The tags of a signature or key record.
pub fn tags(text: &str) -> BTreeMap<String, String> {
    let tag = |pair: &str| pair.split_once('=').map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
    text.split(';').filter_map(tag).collect()
}

/// Decodes base64 with the PEM reader, the one decoder among our dependencies.
pub fn base64(text: &str) -> Vec<u8> {
    let text: String = text.split_ascii_whitespace().collect();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("base64").to_vec()
}

fn sha256(data: &[u8]) -> Vec<u8> {
    HashAlgorithm::Sha256.hash(data).as_ref().to_vec()
}
