<?php
// PHP's mail(), by way of sendmail. In php.ini:
//
//   sendmail_path = "/usr/sbin/sendmail -t -i"
//
// where /usr/sbin/sendmail is a link to posthaste.
[, $order, $to] = $argv;

$sent = mail($to, "Your order $order", "Thank you!\n", [
    "From" => "The shop <orders@shop.test>",
    "Content-Type" => "text/plain; charset=utf-8",
    "X-Posthaste-Idempotency-Key" => "order-$order",
    "X-Posthaste-Campaign" => "orders",
    "X-Posthaste-Class" => "transactional",
], "-forders@shop.test");

// False: the daemon did not take it. Try again later, with the same key.
exit($sent ? 0 : 1);
