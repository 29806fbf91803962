"""What schemathesis must be told of NDJSON: bodies are lines of JSON, and so are answers."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    return value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n"


@schemathesis.deserializer("application/x-ndjson")
def first_line(context, response):
    return json.loads(response.content.splitlines()[0])
