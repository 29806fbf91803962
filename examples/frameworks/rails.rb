# Rails: in config/environments/production.rb.
config.action_mailer.delivery_method = :smtp
config.action_mailer.smtp_settings = {
  address: "127.0.0.1", port: 2525,
  # On another host, or without trust in the network:
  # user_name: "shop", password: ENV["POSTHASTE_TOKEN"], authentication: :plain, enable_starttls: true,
  open_timeout: 10, read_timeout: 60,
}

# In a mailer; deliver with deliver_later, whose retries then are harmless:
#
#   def confirmation(order)
#     headers["X-Posthaste-Idempotency-Key"] = "order-#{order.id}"
#     headers["X-Posthaste-Campaign"] = "orders"
#     mail(to: order.email, subject: "Your order #{order.id}")
#   end
