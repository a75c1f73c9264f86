// An OAuth 2.0 and OpenID Connect server by oidc-provider, for the tests of mailbridge.
//
//     node server.mjs PATH-OF-OIDC-PROVIDER < settings.json (one line)
//
// It prints one line with its port once it listens, and ends when its standard input does. The
// issuer is https://localhost:PORT/<tenant>/v2.0, as Entra's is: a login URL with the tenant in
// it finds this server's discovery document where it finds Entra's.
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { appendFileSync, readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { createInterface } from 'node:readline';

const { default: Provider } = await import(process.argv[2]);

const lines = createInterface({ input: process.stdin });
const settings = JSON.parse((await lines[Symbol.asyncIterator]().next()).value);
process.stdin.on('end', () => process.exit(0)).resume();

const server = createServer({
  key: readFileSync(settings.key),
  cert: readFileSync(settings.certificate),
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const { port } = server.address();
const path = `/${settings.tenant}/v2.0`;
const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });

const provider = new Provider(`https://localhost:${port}${path}`, {
  clients: settings.clients,
  scopes: ['openid', 'offline_access', ...settings.scopes],
  claims: { openid: ['sub'], profile: ['preferred_username', 'name'] },
  // preferred_username in the id token itself, where Entra has it
  conformIdTokenClaims: false,
  findAccount: (ctx, id) => ({
    accountId: id,
    claims: () => ({ sub: id, preferred_username: id, name: id }),
  }),
  issueRefreshToken: (ctx, client) => client.grantTypeAllowed('refresh_token'),
  rotateRefreshToken: true,
  pkce: { methods: ['S256'], required: () => true },
  features: {
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true },
    devInteractions: { enabled: true },
  },
  // what a mail server is told of a token
  extraTokenClaims: (ctx, token) => ({
    idtyp: token.accountId ? 'user' : 'app',
    preferred_username: token.accountId ?? `app:${token.clientId}`,
  }),
  ttl: {
    AccessToken: settings.lifetime,
    ClientCredentials: settings.lifetime,
    DeviceCode: 600,
    Grant: 86400,
    IdToken: 3600,
    Interaction: 600,
    RefreshToken: 86400,
    Session: 600,
  },
  cookies: { keys: [randomBytes(16).toString('hex')] },
  jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'RS256' }] },
});

// What it was asked for, one line a request: path and grant, never a value of a form. What it
// hands out goes into a file of its own, so that a test can tell where none of it may stand.
provider.use(async (ctx, next) => {
  await next();
  for (const name of ['access_token', 'refresh_token', 'id_token', 'device_code']) {
    if (ctx.body?.[name]) appendFileSync(settings.issued, `${name} ${ctx.body[name]}\n`);
  }
  const grant = ctx.oidc?.params?.grant_type ?? '';
  process.stderr.write(`${ctx.method} ${ctx.path} ${grant} ${ctx.status}\n`);
});

const handle = provider.callback();
server.on('request', (request, response) => {
  if (!request.url.startsWith(`${path}/`)) {
    response.writeHead(404).end();
    return;
  }
  request.originalUrl = request.url;
  request.url = request.url.slice(path.length);
  handle(request, response);
});
process.stdout.write(`${port}\n`);
