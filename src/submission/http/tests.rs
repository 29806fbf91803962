//! The OpenAPI document says what there is.

use serde_json::Value;

use super::openapi;

fn document() -> Value {
    serde_json::from_str(&openapi::json()).expect("JSON")
}

/// All values under a key of this name, anywhere.
fn all<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get(key));
            map.values().for_each(|value| all(value, key, found));
        }
        Value::Array(list) => list.iter().for_each(|value| all(value, key, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "{}", document["openapi"]);
    let mut references = Vec::new();
    all(&document, "$ref", &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let path = reference.as_str().and_then(|text| text.strip_prefix('#')).expect("one of our own");
        assert!(document.pointer(path).is_some(), "{reference}");
    }
}

#[test]
fn every_operation_says_how_it_can_end() {
    let document = document();
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path}"));
            operations.push(id.to_owned());
            let responses = operation["responses"].as_object().expect("responses");
            if id == "getDocument" {
                continue;
            }
            for status in ["200", "400", "401", "403", "404", "405", "406", "409", "413", "415", "429", "503"] {
                assert!(responses.contains_key(status), "{id} {status}");
            }
            // A line that is too long never reaches us; hyper answers it without a body.
            for (status, response) in responses.iter().filter(|(status, _)| *status != "414") {
                let kinds: Vec<_> = response["content"].as_object().expect("content").keys().collect();
                let problem = kinds == ["application/problem+json"];
                assert_eq!(problem, status.as_str() >= "400", "{id} {status} {kinds:?}");
            }
        }
    }
    operations.sort_unstable();
    assert_eq!(
        operations,
        [
            "addSuppressions",
            "cancelMessage",
            "cancelMessages",
            "getDocument",
            "getMessage",
            "listSuppressions",
            "removeSuppressions",
            "submitBatch",
            "submitMessage"
        ]
    );
    let body = &document["paths"]["/v1/messages"]["post"]["requestBody"]["content"];
    assert!(body["application/json"]["schema"].is_object() && body["message/rfc822"]["schema"].is_object(), "{body}");
}

#[test]
fn unknown_fields_are_ruled_out() {
    let document = document();
    for name in ["Submission", "Attachment", "Suppression", "Additions"] {
        let schema = &document["components"]["schemas"][name];
        assert_eq!(schema["additionalProperties"], false, "{name}: {schema}");
    }
    let properties = document["components"]["schemas"]["Submission"]["properties"].as_object().expect("properties");
    assert_eq!(properties.len(), 25, "{:?}", properties.keys());
    let schemes = document["components"]["securitySchemes"].as_object().expect("schemes");
    assert_eq!(schemes.keys().collect::<Vec<_>>(), ["basic", "bearer"]);
}
