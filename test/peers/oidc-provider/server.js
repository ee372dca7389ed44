// The provider itself: clients, users, one sign-in page, the control endpoints. Started by start.sh.
import crypto from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import * as jose from 'jose';
import Provider, { interactionPolicy } from 'oidc-provider';
import * as hostile from './hostile.js';

const env = process.env;
const { ISSUER: issuer, PROFILE: profile, PEER_DIR: dir } = env;
const list = (v) => (v ?? '').split(',').map((s) => s.trim()).filter(Boolean);
const ttl = Number(env.TTL ?? 3600);
const alg = env.ALG ?? 'RS256';
const users = JSON.parse(fs.readFileSync(`users/${profile}.json`, 'utf8'));
for (const u of Object.values(users)) {
  for (const k of ['groups', 'groups_direct']) {
    if (typeof u[k] === 'number') u[k] = Array.from({ length: u[k] }, (_, i) => `group-${String(i + 1).padStart(3, '0')}`);
  }
  if (u.profile?.startsWith('/')) u.profile = issuer + u.profile;
}
let active = new Set(list(env.HOSTILE));

// Everything is kept in memory, outside the provider object: that is rebuilt when the keys rotate.
const store = new Map();
class Memory {
  constructor(model) { this.model = model; }
  key(id) { return `${this.model}:${id}`; }
  async upsert(id, payload, expiresIn) { store.set(this.key(id), { payload, until: expiresIn ? Date.now() + expiresIn * 1000 : Infinity }); }
  async find(id) { const e = store.get(this.key(id)); return e && e.until > Date.now() ? e.payload : undefined; }
  async search(field, value) {
    for (const [k, e] of store) if (k.startsWith(`${this.model}:`) && e.payload[field] === value && e.until > Date.now()) return e.payload;
    return undefined;
  }
  async findByUid(uid) { return this.search('uid', uid); }
  async findByUserCode(code) { return this.search('userCode', code); }
  async consume(id) { const p = await this.find(id); if (p) p.consumed = Math.floor(Date.now() / 1000); }
  async destroy(id) { store.delete(this.key(id)); }
  async revokeByGrantId(grantId) { for (const [k, e] of store) if (e.payload.grantId === grantId && !k.startsWith('Grant:')) store.delete(k); }
}

let keys = [];
async function newKey() {
  const { privateKey } = await jose.generateKeyPair(alg, { extractable: true });
  const jwk = await jose.exportJWK(privateKey);
  return { ...jwk, alg, use: 'sig', kid: await jose.calculateJwkThumbprint(jwk) };
}
const { d, ...clientJwk } = await jose.exportJWK(crypto.createPrivateKey(fs.readFileSync(`${dir}/client-key.pem`)));

const anyRedirect = !env.REDIRECT_URIS;
function client(id, extra) {
  return {
    client_id: id,
    client_secret: 'broker-secret',
    id_token_signed_response_alg: alg,
    grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code', 'client_credentials'],
    response_types: ['code'],
    redirect_uris: anyRedirect ? ['http://127.0.0.1/callback'] : list(env.REDIRECT_URIS),
    post_logout_redirect_uris: list(env.POST_LOGOUT_URIS),
    ...(env.BACKCHANNEL_LOGOUT_URI ? { backchannel_logout_uri: env.BACKCHANNEL_LOGOUT_URI, backchannel_logout_session_required: true } : {}),
    ...extra,
  };
}
const clients = [
  client('broker', { token_endpoint_auth_method: 'client_secret_basic' }),
  client('broker-post', { token_endpoint_auth_method: 'client_secret_post' }),
  client('broker-public', {
    token_endpoint_auth_method: 'none', client_secret: undefined,
    grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
  }),
  client('broker-pkjwt', {
    token_endpoint_auth_method: 'private_key_jwt', client_secret: undefined,
    jwks: { keys: [{ ...clientJwk, kid: 'client-1', alg: 'ES256', use: 'sig' }] },
  }),
];

const identity = ['email', 'email_verified'];
const groupClaims = ['groups', 'groups_direct', 'https://gitlab.org/claims/groups/owner', 'https://gitlab.org/claims/groups/developer'];
const profileClaims = ['name', 'given_name', 'family_name', 'preferred_username', 'nickname', 'profile', 'picture', 'hd'];
const scopeClaims = {
  default: { openid: ['sub'], email: identity, profile: profileClaims, groups: ['groups'] },
  google: { openid: ['sub', 'hd'], email: identity, profile: profileClaims },
  // GitLab puts the groups into "openid"; the inherited ones only into the userinfo response.
  gitlab: { openid: ['sub', ...groupClaims], email: identity, profile: profileClaims },
};
const routes = {
  default: {},
  google: { authorization: '/o/oauth2/v2/auth', token: '/token', userinfo: '/v1/userinfo', jwks: '/oauth2/v3/certs', revocation: '/revoke' },
  gitlab: { authorization: '/oauth/authorize', token: '/oauth/token', userinfo: '/oauth/userinfo', jwks: '/oauth/discovery/keys', revocation: '/oauth/revoke', introspection: '/oauth/introspect' },
};
const offline = new Map(); // Google: the grants that were asked for with access_type=offline

function findAccount(ctx, sub) {
  const user = Object.values(users).find((u) => u.sub === sub);
  return user && {
    accountId: sub,
    claims(use) {
      const c = { ...user };
      if (profile === 'gitlab' && use === 'id_token') delete c.groups;
      return hostile.changeIdentity(c, active);
    },
  };
}

// Google knows prompt=select_account; here there is one account, chosen at once.
const policy = interactionPolicy.base();
if (profile === 'google') policy.add(new interactionPolicy.Prompt({ name: 'select_account', requestable: true }), 0);

const page = (body) => `<!DOCTYPE html><html><head><title>Test provider</title></head><body>${body}</body></html>`;
const esc = (s) => String(s ?? '').replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

function build() {
  const p = new Provider(issuer, {
    adapter: Memory,
    clients,
    jwks: { keys },
    findAccount,
    claims: scopeClaims[profile],
    scopes: ['openid', 'offline_access', 'read_user', 'read_api'],
    routes: routes[profile],
    conformIdTokenClaims: env.CLAIMS === 'userinfo',
    pkce: { required: () => env.PKCE !== '0' },
    cookies: { keys: ['peer'], names: { session: `_op_${env.PORT}`, interaction: `_opi_${env.PORT}`, resume: `_opr_${env.PORT}` } },
    extraParams: ['access_type', 'hd', 'include_granted_scopes'],
    enabledJWA: { idTokenSigningAlgValues: [...new Set(['RS256', alg])] },
    ttl: { AccessToken: ttl, IdToken: ttl, AuthorizationCode: 60, RefreshToken: 14 * 86400, Session: 86400, Grant: 86400, Interaction: 600, DeviceCode: 600, ClientCredentials: ttl },
    rotateRefreshToken: profile !== 'google',
    issueRefreshToken: async (ctx, c, source) => env.REFRESH !== '0' && c.grantTypeAllowed('refresh_token')
      && (profile !== 'google' || offline.get(source.grantId) === true),
    // The default refuses loopback addresses (back-channel logout, jwks_uri).
    fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
    interactions: { policy, url: (ctx, i) => `/interaction/${i.uid}` },
    async loadExistingGrant(ctx) {
      const { client: c, session, params, result } = ctx.oidc;
      const id = result?.consent?.grantId || session.grantIdFor(c.clientId);
      let grant = id && await ctx.oidc.provider.Grant.find(id);
      if (!grant) {
        if (env.CONSENT === '1') return undefined;
        grant = new ctx.oidc.provider.Grant({ clientId: c.clientId, accountId: session.accountId });
      }
      if (env.CONSENT !== '1') {
        grant.addOIDCScope(params.scope ?? 'openid');
        await grant.save();
      }
      offline.set(grant.jti, params.access_type === 'offline');
      return grant;
    },
    features: {
      devInteractions: { enabled: false },
      backchannelLogout: { enabled: true },
      clientCredentials: { enabled: true },
      deviceFlow: { enabled: true },
      dPoP: { enabled: true },
      introspection: { enabled: true },
      pushedAuthorizationRequests: { enabled: true },
      registration: { enabled: true, initialAccessToken: false },
      requestObjects: { enabled: true },
      revocation: { enabled: true },
      rpInitiatedLogout: { enabled: true },
    },
    renderError: (ctx, out) => { ctx.type = 'html'; ctx.body = page(`<h1>error</h1><pre>${esc(JSON.stringify(out))}</pre>`); },
  });
  const loopback = (u) => { try { return ['127.0.0.1', 'localhost', '[::1]'].includes(new URL(u).hostname); } catch { return false; } };
  if (anyRedirect) {
    const { redirectUriAllowed, postLogoutRedirectUriAllowed } = p.Client.prototype;
    p.Client.prototype.redirectUriAllowed = function (u) { return loopback(u) || redirectUriAllowed.call(this, u); };
    p.Client.prototype.postLogoutRedirectUriAllowed = function (u) { return loopback(u) || postLogoutRedirectUriAllowed.call(this, u); };
  }
  p.use(misbehave);
  p.use(pages(p));
  for (const e of ['server_error', 'grant.error', 'authorization.error', 'userinfo.error', 'backchannel.error']) {
    p.on(e, (ctx, err) => console.log(e, err?.error ?? '', err?.error_description ?? err?.stack ?? '', err?.cause ?? ''));
  }
  p.on('backchannel.success', (ctx, c) => console.log('backchannel.success', c.clientId));
  return p;
}

async function misbehave(ctx, next) {
  const r = { authorization: '/auth', token: '/token', jwks: '/jwks', userinfo: '/me', ...routes[profile] };
  const on = (n) => active.has(n);
  if (ctx.path === r.token && on('token-500')) { ctx.status = 500; ctx.body = 'internal error'; return; }
  if (ctx.path === r.token && on('token-html')) { ctx.type = 'html'; ctx.body = page('<h1>Welcome</h1>'); return; }
  if (ctx.path === r.token && on('token-slow')) await new Promise((ok) => { setTimeout(ok, 30000); });
  if (ctx.path === r.jwks && on('jwks-500')) { ctx.status = 500; return; }
  if (ctx.path === r.jwks && on('jwks-empty')) { ctx.body = { keys: [] }; return; }
  if (ctx.path === r.userinfo && on('userinfo-500')) { ctx.status = 500; return; }
  if (ctx.path.startsWith('/.well-known/') && on('discovery-500')) { ctx.status = 500; return; }
  await next();
  if (ctx.path.startsWith('/.well-known/') && on('discovery-other-issuer')) ctx.body = { ...ctx.body, issuer: 'https://evil.example' };
  if (ctx.path === r.token && ctx.body?.id_token && active.size) {
    const c = clients.find((x) => x.client_id === ctx.oidc?.client?.clientId);
    ctx.body = { ...ctx.body, id_token: await hostile.changeIdToken(ctx.body.id_token, active, keys[0], c?.client_secret) };
    if (on('no-id-token')) delete ctx.body.id_token;
    if (on('token-huge')) ctx.body.padding = 'x'.repeat(50 << 20);
  }
  if (ctx.path === r.userinfo && ctx.body?.sub && on('userinfo-other-sub')) ctx.body = { ...ctx.body, sub: 'someone-else' };
  const to = ctx.response.get('location');
  if (ctx.path.startsWith(r.authorization) && to && ctx.response.status < 400 && /[?&](code|error)=/.test(to)) {
    const u = new URL(to);
    if (on('callback-wrong-iss')) u.searchParams.set('iss', 'https://evil.example');
    if (on('callback-no-iss')) u.searchParams.delete('iss');
    if (on('callback-wrong-state')) u.searchParams.set('state', 'not-the-state');
    ctx.set('location', u.href);
  }
}

async function form(ctx) {
  let s = '';
  for await (const chunk of ctx.req) s += chunk;
  return new URLSearchParams(s);
}

const pages = (p) => async (ctx, next) => {
  if (ctx.path === '/control' || ctx.path === '/control/rotate') {
    if (ctx.method === 'POST' && ctx.path === '/control') {
      const wanted = list(ctx.query.hostile);
      const unknown = wanted.filter((n) => !hostile.names.includes(n));
      if (unknown.length) { ctx.status = 400; ctx.body = { unknown, names: hostile.names }; return; }
      active = new Set(wanted);
    } else if (ctx.method === 'POST') {
      keys = [await newKey(), ...(ctx.query.keep === '0' ? [] : keys)];
      current = build().callback();
    }
    ctx.body = { hostile: [...active], kids: keys.map((k) => k.kid), names: hostile.names };
    return;
  }
  if (profile === 'gitlab' && ctx.path.startsWith('/api/v4/')) { await gitlabApi(p, ctx); return; }
  if (!ctx.path.startsWith('/interaction/')) { await next(); return; }

  const i = await p.interactionDetails(ctx.req, ctx.res);
  if (i.prompt.name === 'select_account') {
    ctx.respond = false;
    await p.interactionFinished(ctx.req, ctx.res, { select_account: {} }, { mergeWithLastSubmission: true });
    return;
  }
  if (i.prompt.name === 'login') {
    let wrong = '';
    if (ctx.method === 'POST') {
      const f = await form(ctx);
      const name = f.get('login');
      if (f.has('cancel')) { ctx.respond = false; await p.interactionFinished(ctx.req, ctx.res, { error: 'access_denied', error_description: 'the user said no' }); return; }
      if (users[name] && f.get('password') === `${name}-pw`) {
        ctx.respond = false;
        await p.interactionFinished(ctx.req, ctx.res, { login: { accountId: users[name].sub, amr: ['pwd'] } });
        return;
      }
      wrong = '<p class="error">Wrong name or password.</p>';
    }
    ctx.type = 'html';
    ctx.body = page(`<h1>Sign in</h1>${wrong}<form method="post" action="${ctx.path}"><input name="login" value="${esc(i.params.login_hint)}">
<input name="password" type="password"><button type="submit">Sign in</button><button type="submit" name="cancel" value="1">Cancel</button></form>`);
    return;
  }
  if (ctx.method !== 'POST') {
    ctx.type = 'html';
    ctx.body = page(`<h1>Allow ${esc(i.params.client_id)}?</h1><p>${esc(i.params.scope)}</p><form method="post" action="${ctx.path}">
<button type="submit">Allow</button><button type="submit" name="cancel" value="1">Deny</button></form>`);
    return;
  }
  ctx.respond = false;
  if ((await form(ctx)).has('cancel')) { await p.interactionFinished(ctx.req, ctx.res, { error: 'access_denied' }); return; }
  const grant = (i.grantId && await p.Grant.find(i.grantId)) || new p.Grant({ clientId: i.params.client_id, accountId: i.session.accountId });
  grant.addOIDCScope(i.params.scope);
  await p.interactionFinished(ctx.req, ctx.res, { consent: { grantId: await grant.save() } }, { mergeWithLastSubmission: true });
};

// GitLab's REST endpoints that a sign-in might use: GET /api/v4/user and /api/v4/groups (paged, 20 by default).
async function gitlabApi(p, ctx) {
  const token = await p.AccessToken.find(ctx.get('authorization').replace(/^Bearer /i, '') || ctx.query.access_token);
  const user = token && Object.values(users).find((u) => u.sub === token.accountId);
  if (!user) { ctx.status = 401; ctx.body = { message: '401 Unauthorized' }; return; }
  const scopes = new Set(token.scope?.split(' '));
  if (!scopes.has('read_user') && !scopes.has('read_api')) {
    ctx.status = 403;
    ctx.body = { error: 'insufficient_scope', error_description: 'The request requires higher privileges than provided by the access token.', scope: 'api read_api' };
    return;
  }
  if (ctx.path === '/api/v4/user') {
    ctx.body = { id: Number(user.sub), username: user.nickname, name: user.name, state: 'active', email: user.email, confirmed_at: user.email_verified ? '2020-01-01T00:00:00Z' : null, web_url: `${issuer}/${user.nickname}` };
    return;
  }
  if (ctx.path !== '/api/v4/groups') { ctx.status = 404; ctx.body = { error: '404 Not Found' }; return; }
  const per = Math.min(Number(ctx.query.per_page) || 20, 100);
  const n = Math.max(Number(ctx.query.page) || 1, 1);
  const pagesTotal = Math.max(1, Math.ceil(user.groups.length / per));
  const link = (k, rel) => `<${issuer}/api/v4/groups?page=${k}&per_page=${per}>; rel="${rel}"`;
  ctx.set({ 'X-Page': String(n), 'X-Per-Page': String(per), 'X-Total': String(user.groups.length), 'X-Total-Pages': String(pagesTotal), 'X-Next-Page': n < pagesTotal ? String(n + 1) : '' });
  ctx.set('Link', [...(n > 1 ? [link(n - 1, 'prev')] : []), ...(n < pagesTotal ? [link(n + 1, 'next')] : []), link(1, 'first'), link(pagesTotal, 'last')].join(', '));
  ctx.body = user.groups.slice((n - 1) * per, n * per).map((g, k) => ({ id: 100 + (n - 1) * per + k, full_path: g, path: g.split('/').pop(), name: g, visibility: 'private', web_url: `${issuer}/groups/${g}` }));
}

keys = [await newKey()];
let current = build().callback();
const handler = (req, res) => current(req, res);
const server = env.TLS === '1'
  ? https.createServer({ key: fs.readFileSync(`${dir}/tls.key`), cert: fs.readFileSync(`${dir}/tls.pem`) }, handler)
  : http.createServer(handler);
server.listen(Number(env.PORT), '127.0.0.1', () => console.log(`listening: ${issuer}`));
process.on('SIGTERM', () => process.exit(0));
