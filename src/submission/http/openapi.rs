//! The OpenAPI document, made from the types and functions of this module.

use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ArrayBuilder, ObjectBuilder, OneOfBuilder, RefOr, Schema, Type};
use utoipa::{IntoResponses, Modify, OpenApi};

use super::problem::Problem;
use super::{answer, body, routes, suppressions};

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(title = "posthaste", description = "Hand over mail, ask what became of it, take it back."),
    paths(
        routes::submit,
        routes::cancel_many,
        routes::batch,
        routes::message,
        routes::cancel,
        suppressions::list,
        suppressions::add,
        suppressions::remove,
        routes::document,
    ),
    components(schemas(
        body::Submission,
        answer::SubmissionReceipt,
        answer::BatchLine,
        answer::MessageReport,
        answer::Cancellation,
        suppressions::Suppression,
        suppressions::Additions,
        suppressions::SuppressionPage,
        suppressions::Added,
        Problem,
    )),
    tags(
        (name = "messages", description = "Messages, from submission to their end."),
        (name = "suppressions", description = "Who is not mailed any more."),
        (name = "document", description = "This document."),
    ),
    security((), ("bearer" = []), ("basic" = [])),
    modifiers(&Credentials),
)]
struct Document;

/// The document as JSON.
pub(super) fn json() -> String {
    Document::openapi().to_json().expect("the document is plain data")
}

/// The problems any operation may end in.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "stands for the document only")]
pub(super) enum Problems {
    /// A field is wrong; `violations` names all that are.
    #[response(status = 400, content_type = "application/problem+json")]
    Invalid(Problem),
    /// No credentials, or wrong ones.
    #[response(
        status = 401,
        content_type = "application/problem+json",
        headers(("WWW-Authenticate" = String, description = "How to show who you are."))
    )]
    Unauthenticated(Problem),
    /// The tenant may not do that.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(Problem),
    /// There is no such message, key or path, or it is another tenant's.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(Problem),
    /// The path is not for this method.
    #[response(
        status = 405,
        content_type = "application/problem+json",
        headers(("Allow" = String, description = "What it is for."))
    )]
    MethodNotAllowed(Problem),
    /// The field Accept does not allow our answer.
    #[response(status = 406, content_type = "application/problem+json")]
    NotAcceptable(Problem),
    /// The idempotency key stands for a different submission.
    #[response(status = 409, content_type = "application/problem+json")]
    KeyReused(Problem),
    /// Larger than allowed.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(Problem),
    /// The query is longer than 64 KiB; the answer has no body.
    #[response(status = 414)]
    UriTooLong,
    /// The body is of a kind we do not read.
    #[response(status = 415, content_type = "application/problem+json")]
    UnsupportedMediaType(Problem),
    /// The tenant has used up what it may.
    #[response(
        status = 429,
        content_type = "application/problem+json",
        headers(("Retry-After" = u64, description = "Seconds after which there will be room."))
    )]
    Quota(Problem),
    /// No room, trouble with the disk, or shutting down: nothing was kept, try again.
    #[response(
        status = 503,
        content_type = "application/problem+json",
        headers(("Retry-After" = u64, description = "Seconds after which to try again."))
    )]
    Unavailable(Problem),
}

/// Names the ways to show who one is.
struct Credentials;

impl Modify for Credentials {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        for (name, scheme) in [("bearer", HttpAuthScheme::Bearer), ("basic", HttpAuthScheme::Basic)] {
            components.add_security_scheme(name, SecurityScheme::Http(Http::new(scheme)));
        }
    }
}

/// `transactional` or `bulk`.
pub(super) fn class() -> RefOr<Schema> {
    words(&["transactional", "bulk"]).schema_type(Type::String).into()
}

/// The same as a field, which may be null.
pub(super) fn class_or_null() -> RefOr<Schema> {
    let values = ["transactional".into(), "bulk".into(), serde_json::Value::Null];
    let class = words(&[]).enum_values(Some(values)).schema_type(SchemaType::from_iter([Type::String, Type::Null]));
    class.description(Some("Whether somebody waits for it. Default: `transactional`.")).into()
}

/// `full` or `headers`.
pub(super) fn ret() -> RefOr<Schema> {
    words(&["full", "headers"]).schema_type(Type::String).into()
}

fn words(words: &[&str]) -> ObjectBuilder {
    ObjectBuilder::new().enum_values(Some(words.iter().map(|word| serde_json::Value::from(*word))))
}

/// Words without commas.
pub(super) fn tags() -> RefOr<Schema> {
    let tag = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(128));
    let tag = tag.pattern(Some(
        "^[^,\\u0000-\\u001f\\u007f-\\u009f]*[^,\\s\\u0000-\\u001f\\u007f-\\u009f][^,\\u0000-\\u001f\\u007f-\\u009f]*$",
    ));
    let tags = ArrayBuilder::new().items(tag).max_items(Some(32));
    tags.description(Some("Free words for the events; without commas.")).into()
}

/// Addresses.
pub(super) fn recipients() -> RefOr<Schema> {
    let why = "The recipients in the envelope. Default: those of `to`, `cc` and `bcc`.";
    ArrayBuilder::new().items(address()).description(Some(why)).into()
}

fn address() -> ObjectBuilder {
    let address = ObjectBuilder::new().schema_type(Type::String).min_length(Some(3)).max_length(Some(512));
    address.examples(["bob@example.com"])
}

/// A mailbox, as text or in two fields.
pub(super) fn mailbox() -> RefOr<Schema> {
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(3))
        .max_length(Some(800))
        .examples(["Bob <bob@example.com>"]);
    let nullable = SchemaType::from_iter([Type::String, Type::Null]);
    let name = ObjectBuilder::new().schema_type(nullable).max_length(Some(255));
    let object = ObjectBuilder::new()
        .property("name", name)
        .property("address", address())
        .required("address")
        .additional_properties(Some(utoipa::openapi::schema::AdditionalProperties::FreeForm(false)));
    OneOfBuilder::new().item(text).item(object).into()
}

/// Header fields by name.
pub(super) fn headers() -> RefOr<Schema> {
    let value = ObjectBuilder::new().schema_type(Type::String).max_length(Some(8192));
    let name = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[A-Za-z0-9_-]{1,76}$"));
    let why = "Further header fields by name. Not those that have a place of their own, and none of `Content-`, `Resent-`, \
               `X-Posthaste-`, `ARC-`, `Received`, `Return-Path`, `MIME-Version`, `DKIM-Signature`, `Date`.";
    let fields = ObjectBuilder::new().description(Some(why)).additional_properties(Some(value));
    fields.property_names(Some(name)).max_properties(Some(100)).into()
}
