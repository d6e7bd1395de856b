// Submits one message with nodemailer, as a program that logs in does.
//
// HOST PORT starttls|implicit CA MECHANISM USER PASSWORD FROM TO FILE; the folder that nodemailer is
// installed in is in the environment, as NODEMAILER.
import { createReadStream, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(process.env.NODEMAILER + '/');
const nodemailer = require('nodemailer');
const [host, port, start, ca, mechanism, user, pass, from, to, path] = process.argv.slice(2);
const transport = nodemailer.createTransport({
  host,
  port: Number(port),
  name: 'client.test',
  secure: start === 'implicit',
  requireTLS: true,
  tls: { ca: readFileSync(ca) },
  auth: { user, pass },
  authMethod: mechanism,
});
const use8BitMime = readFileSync(path).some((octet) => octet > 127);
try {
  await transport.sendMail({ envelope: { from, to, use8BitMime }, raw: createReadStream(path) });
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  transport.close();
}
