// Sends one order confirmation with nodemailer, by SMTP.
//
//   npm install nodemailer
//   node order.js 4711 ada@example.com
//   POSTHASTE_SMTP=127.0.0.1:2525               where the daemon is
//   POSTHASTE_USER=... POSTHASTE_TOKEN=...      the tenant and its token; not needed from a trusted network
const nodemailer = require("nodemailer");

const [order, to] = process.argv.slice(2);
const [host, port] = (process.env.POSTHASTE_SMTP || "127.0.0.1:2525").split(":");
const { POSTHASTE_USER: user, POSTHASTE_TOKEN: pass } = process.env;

const transport = nodemailer.createTransport({ host, port: Number(port), pool: true, auth: user ? { user, pass } : undefined });

const message = {
  from: '"The shop" <orders@shop.test>',
  to,
  subject: `Your order ${order}`,
  text: "Thank you!\n",
  headers: {
    // Made of what the message is about: the same whenever this order is confirmed.
    "X-Posthaste-Idempotency-Key": `order-${order}`,
    "X-Posthaste-Campaign": "orders",
    "X-Posthaste-Class": "transactional",
  },
};

// Whatever is not a clear no is tried again, with the same key: it is mailed once.
async function send(attempt = 1) {
  try {
    return await transport.sendMail(message);
  } catch (error) {
    if (error.responseCode >= 500 || attempt === 8) throw error;
    await new Promise(done => setTimeout(done, 250 * 2 ** attempt));
    return send(attempt + 1);
  }
}

send()
  .then(info => console.log(info.response))
  .catch(error => { console.error(error.message); process.exitCode = 1; })
  .finally(() => transport.close());
