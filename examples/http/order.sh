#!/bin/sh
# Sends one order confirmation by HTTP and says where it stands.
#   ./order.sh 4711 ada@example.com
#   POSTHASTE_HTTP=http://127.0.0.1:2581    where the daemon is
#   POSTHASTE_TOKEN=...                     who we are; not needed from a trusted network
set -eu
order=$1 to=$2
server=${POSTHASTE_HTTP:-http://127.0.0.1:2581}
set -- --silent --show-error ${POSTHASTE_TOKEN:+--header "Authorization: Bearer $POSTHASTE_TOKEN"}

# The key is made of what the message is about, so whatever has no receipt can be sent again: --retry does it for 429,
# 503 and broken connections, as long as Retry-After says.
receipt=$(curl "$@" --fail-with-body --retry 8 --retry-connrefused --max-time 60 "$server/v1/messages" \
  --header "Idempotency-Key: order-$order" --json @- <<END
{
  "from": "The shop <orders@shop.test>",
  "to": ["$to"],
  "subject": "Your order $order",
  "text": "Thank you!",
  "class": "transactional",
  "campaign": "orders"
}
END
) || { echo "$receipt" >&2; exit 1; } # problem+json: "violations" names every field that is wrong
echo "$receipt"

id=$(echo "$receipt" | sed 's/^{"id":"\([^"]*\)".*/\1/')
curl "$@" --fail "$server/v1/messages/$id"
echo
