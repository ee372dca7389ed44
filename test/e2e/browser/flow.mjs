// flow.mjs ISSUER USER PASSWORD [CONNECTOR]: what a person does. Signs in on the portal, opens the API and the console
// through the gateway, uses the console's WebSocket, signs out, and finds both closed. With NOJS=1 scripts are off (the
// WebSocket is then left out). Prints PASS or FAIL for each step; exits 1 on a failure.
import http from 'node:http';
import { open, settle } from './browser.mjs';

const [issuer, user, password, connector = 'local'] = process.argv.slice(2);
const port = new URL(issuer).port;
const api = `http://api.localhost:${port}`, con = `http://demo.console.localhost:${port}`;
const nojs = process.env.NOJS === '1';
const { browser, context, page, notes } = await open({ lang: 'en' });
let failed = 0;
const check = (ok, name, detail = '') => { console.log(`${ok ? 'PASS' : 'FAIL'} ${name}${detail ? `: ${detail}` : ''}`); if (!ok) failed += 1; };

async function signIn() {
  if (!(await page.locator('input[type=password]').count())) await page.locator(`a[href*="/signin/${connector}"]`).first().click();
  await settle(page, 2000);
  await page.fill('#username', user);
  await page.fill('#password', password);
  await page.locator('form:has(#password) button:not([type=button])').click();
  await settle(page, 3000);
}

try {
  await page.goto(`${issuer}/`);
  await settle(page, 2000);
  check(/\/signin/.test(page.url()), 'a stranger gets the sign-in page', page.url());
  await signIn();
  check(new URL(page.url()).pathname === '/', 'lands on the portal', page.url());
  check(await page.locator('nav').count() === 1 && (await page.locator('h1').textContent()).length > 0, 'the portal greets');
  for (const p of ['/account', '/account/sessions', '/account/apps', '/account/claims']) {
    const r = await page.goto(issuer + p);
    check(r.status() === 200, `page ${p}`, String(r.status()));
  }
  let r = await page.goto(`${api}/echo`);
  await settle(page, 2000);
  check(page.url() === `${api}/echo` && /X-Gatehouse-User/.test(await page.content()), 'the API opens through the gateway', `${r.status()} ${page.url()}`);
  r = await page.goto(`${con}/`);
  await settle(page, 2000);
  check(page.url() === `${con}/` && /Demo console/.test(await page.content()), 'the console opens through the gateway', page.url());
  const inConsole = (await context.cookies(con)).map((c) => c.name);
  check(inConsole.includes('gatehouse-console') && !inConsole.includes('gatehouse'), 'the console has a cookie of its own and not the SSO one', inConsole.join(' '));
  let socketPage;
  if (!nojs) {
    await page.locator('#state:text("connected")').waitFor();
    await page.fill('#line', 'ping through the gateway');
    await page.locator('#form button').click();
    await page.locator('#out:has-text("< ping through the gateway")').waitFor();
    check(true, "the console's WebSocket is live");
    socketPage = page;
  }
  const other = nojs ? page : await context.newPage();
  await other.goto(`${issuer}/signout`);
  await other.locator('button[name=here]').click();
  await settle(other, 2000);
  check(/\/signed-out/.test(other.url()), 'signs out', other.url());
  if (socketPage) {
    await socketPage.locator('#state:has-text("4401")').waitFor({ timeout: 8000 }).catch(async () => { throw new Error(`the socket says: ${await socketPage.locator('#state').textContent()}`); });
    check(true, 'the live WebSocket is closed with 4401');
  }
  for (const [name, u] of [['API', `${api}/echo`], ['console', `${con}/`]]) {
    await other.goto(u);
    await settle(other, 2000);
    check(new URL(other.url()).host === new URL(issuer).host && /\/signin/.test(other.url()), `the ${name} is closed`, other.url());
  }

  // A form's answer that ends on another site: Chromium applies form-action to the redirects behind it.
  const got = [];
  const rp = http.createServer((q, s) => { got.push(q.url); s.setHeader('content-type', 'text/html'); s.end('<!doctype html><title>client</title>arrived'); }).listen(5555, '127.0.0.1');
  const ask = new URLSearchParams({ response_type: 'code', client_id: 'demo-app', redirect_uri: 'http://localhost:5555/callback', scope: 'openid', state: 'st', code_challenge: 'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM', code_challenge_method: 'S256' });
  await page.goto(`${issuer}/oauth2/authorize?${ask}`);
  await settle(page, 2000);
  await signIn();
  await page.waitForURL(/localhost:5555/, { timeout: 8000 }).catch(() => {});
  check(/^http:\/\/localhost:5555\/callback\?.*code=/.test(page.url()), 'the form ends at a client on another site', page.url());
  // The same by a client that asks for consent.
  ask.set('prompt', 'consent');
  await page.goto(`${issuer}/oauth2/authorize?${ask}`);
  await settle(page, 2000);
  check(/\/consent\//.test(page.url()), 'consent is asked', page.url());
  await page.locator('button[value=allow]').click();
  await page.waitForURL(/localhost:5555/, { timeout: 8000 }).catch(() => {});
  check(/^http:\/\/localhost:5555\/callback\?.*code=/.test(page.url()), 'the consent form ends at the client', page.url());
  rp.closeAllConnections?.();
  rp.close();
  const bad = notes.filter((n) => !/Failed to load resource|WebSocket/.test(n));
  check(bad.length === 0, 'nothing on the console', bad.join(' | '));
} catch (e) {
  check(false, 'the flow', `${e.message}\n  at ${page.url()}`);
} finally { await browser.close(); }
process.exit(failed ? 1 : 0);
