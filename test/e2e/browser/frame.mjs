// frame.mjs ISSUER HOST LEASE USER PASSWORD CLIENT SECRET PORT: the platform's app, on another site, signs its user in, takes a
// ticket with the user's token from its own page, and frames the console with it. The console's WebSocket works inside. Without
// a ticket the frame shows one link. Third-party cookies are blocked, as browsers do: only a partitioned one passes.
import http from 'node:http';
import https from 'node:https';
import { open, settle } from './browser.mjs';

const [issuer, host, lease, user, password, client, secret, port] = process.argv.slice(2);
const app = `http://127.0.0.1:${port}`;
const { browser, page } = await open({ lang: 'en' });
let failed = 0;
const check = (ok, name, detail = '') => { console.log(`${ok ? 'PASS' : 'FAIL'} ${name}${detail ? `: ${detail}` : ''}`); if (!ok) failed += 1; };
let token = '';
const server = http.createServer(async (q, s) => {
  const u = new URL(q.url, app);
  s.setHeader('content-type', 'text/html; charset=utf-8');
  if (u.pathname === '/callback') {
    const form = new URLSearchParams({ grant_type: 'authorization_code', code: u.searchParams.get('code'), redirect_uri: `${app}/callback`, code_verifier: 'dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk' });
    const at = new URL(issuer); // *.localhost is this machine, though Node does not know it
    token = await new Promise((done, fail) => {
      const r = https.request({ host: '127.0.0.1', port: at.port, path: '/oauth2/token', method: 'POST', servername: at.hostname, rejectUnauthorized: false,
        headers: { host: at.host, 'content-type': 'application/x-www-form-urlencoded', authorization: `Basic ${btoa(`${client}:${secret}`)}` } }, (a) => {
        let text = '';
        a.on('data', (d) => { text += d; });
        a.on('end', () => done(JSON.parse(text).access_token || ''));
      });
      r.on('error', fail);
      r.end(form.toString());
    });
  }
  s.end('<!doctype html><title>app</title><h1>The platform</h1><iframe id="console" width="900" height="500"></iframe>');
}).listen(Number(port), '127.0.0.1');
try {
  const ask = new URLSearchParams({ response_type: 'code', client_id: client, redirect_uri: `${app}/callback`, scope: 'openid gatehouse:consoles', resource: issuer, state: 's', code_challenge: 'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM', code_challenge_method: 'S256' });
  await page.goto(`${issuer}/oauth2/authorize?${ask}`);
  await settle(page, 2000);
  await page.fill('#username', user);
  await page.fill('#password', password);
  await page.locator('form:has(#password) button:not([type=button])').click();
  await page.waitForURL(`${app}/callback*`);
  check(token.length > 0, 'the app has a token of its user');
  // Without a ticket: one link, never a sign-in.
  await page.evaluate((u) => { document.querySelector('#console').src = u; }, `https://${lease}.${host}/`);
  const frame = page.frameLocator('#console');
  await frame.locator('a[target=_blank]').waitFor();
  check(await frame.locator('a').filter({ hasText: 'Open in a new tab' }).count() === 1 && await frame.locator('input').count() === 0, 'without a ticket the frame shows one link');
  const made = await page.evaluate(async ([u, t]) => {
    const r = await fetch(u, { method: 'POST', headers: { authorization: `Bearer ${t}`, 'content-type': 'application/json' }, body: '{}' });
    return { status: r.status, ...(await r.json()) };
  }, [`${issuer}/api/v1/consoles/${lease}/ticket`, token]);
  check(made.status === 200 && made.url.startsWith(`https://${lease}.${host}/.gatehouse/callback?`), "the app's page takes a ticket", JSON.stringify(made).slice(0, 120));
  await page.evaluate((u) => { document.querySelector('#console').src = u; }, made.url);
  await frame.locator('#state:text("connected")').waitFor();
  check(true, 'the console is framed, and its WebSocket is connected');
  await frame.locator('#line').fill('ping from a frame');
  await frame.locator('#form button').click();
  await frame.locator('#out:has-text("< ping from a frame")').waitFor();
  check(true, "the console's WebSocket is live in the frame");
  const cookies = (await page.context().cookies(`https://${lease}.${host}/`)).map((c) => `${c.name} ${c.sameSite} ${c.partitionKey || ''}`);
  check(cookies.some((c) => c.startsWith('__Host-gatehouse-frame None http')), "the frame's cookie is partitioned", cookies.join(', '));
  // The same address again, and from a page of another origin: nothing.
  await page.evaluate((u) => { document.querySelector('#console').src = u; }, `${made.url}&again=1`);
  await page.waitForTimeout(500);
  const other = await page.context().newPage();
  await other.goto(`http://localhost:${port}/`);
  await other.evaluate((u) => { document.querySelector('#console').src = u; }, `https://${lease}.${host}/`);
  await other.waitForTimeout(1500);
  const seen = await Promise.all(other.frames().slice(1).map((f) => f.locator('#state').count().catch(() => 0)));
  check(seen.every((n) => n === 0), 'a page of another origin cannot frame it');
} catch (e) {
  check(false, 'the frame', `${e.message}\n  at ${page.url()}`);
} finally { await browser.close(); server.close(); }
process.exit(failed ? 1 : 0);
