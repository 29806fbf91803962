#!/bin/sh
# Hands a campaign over by HTTP: a line of JSON for each message, a line back for each, in order.
#   ./batch.sh spring-sale ada@example.com grace@example.com
# Run it again as often as you like: each message is mailed once.
set -eu
campaign=$1
shift
for to in "$@"; do
  printf '{"from": "news@shop.test", "to": ["%s"], "subject": "Spring sale", "text": "Everything must go.", ' "$to"
  printf '"class": "bulk", "campaign": "%s", "idempotency_key": "%s/%s"}\n' "$campaign" "$campaign" "$to"
done | curl --silent --show-error --fail-with-body --no-buffer ${POSTHASTE_TOKEN:+--header "Authorization: Bearer $POSTHASTE_TOKEN"} \
  --header 'Content-Type: application/x-ndjson' --data-binary @- "${POSTHASTE_HTTP:-http://127.0.0.1:2581}/v1/messages:batch"
