# Django: in settings.py.
import os

EMAIL_HOST, EMAIL_PORT = os.environ.get("POSTHASTE_SMTP", "127.0.0.1:2525").split(":")
EMAIL_HOST_USER = os.environ.get("POSTHASTE_USER", "")  # the tenant; not needed from a trusted network
EMAIL_HOST_PASSWORD = os.environ.get("POSTHASTE_TOKEN", "")
EMAIL_USE_TLS = False  # True where the daemon is on another host
EMAIL_TIMEOUT = 30
DEFAULT_FROM_EMAIL = "The shop <orders@shop.test>"

# With a message:
#
#   EmailMessage("Your order 4711", "Thank you!", to=["ada@example.com"], headers={
#       "X-Posthaste-Idempotency-Key": "order-4711",
#       "X-Posthaste-Campaign": "orders",
#       "X-Posthaste-Class": "transactional",
#   }).send()
