// pages.mjs ISSUER USER PASSWORD: every page and state in English and Chinese, light and dark, 1280 and 320 px. For each:
// no axe violation, nothing sideways (200 % text too), right lang and title, one h1 and main, targets of 44 px, labels in the
// reader's language, a strict policy, nobody else asked, nothing on the console. SHOTS=folder keeps pictures.
// The server is the one that browser_test.go sets up: a directory and a GitHub that do not answer, a Google that does
// not answer either, the hosts down.localhost (nothing behind it), slow.localhost (no answer) and closed.localhost (nobody
// may), and consoles that are down, slow and waking up.
import fs from 'node:fs';
import path from 'node:path';
import { createRequire } from 'node:module';
import { open } from './browser.mjs';

const axe = fs.readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const rules = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
const [issuer, user, password] = process.argv.slice(2);
const { host, port } = new URL(issuer);
const on = (name) => `http://${name}:${port}/`;
const authorize = (more = {}) => `/oauth2/authorize?${new URLSearchParams({ response_type: 'code', client_id: 'demo-app', redirect_uri: 'http://localhost:5555/callback',
  scope: 'openid profile email groups offline_access deployments:write', code_challenge: 'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM', code_challenge_method: 'S256', ...more })}`;
let failed = 0, pages = 0;
const bad = (where, what) => { failed += 1; console.log(`FAIL ${where}: ${what}`); };

const outside = [
  ['signin', '/signin', 200], ['signin-stale', '/signin?attempt=AAAAAAAAAAAAAAAAAAAAAAAAAA', 200], ['signin-bookmarked', '/signin/google', 200],
  ['signin-for-app', authorize(), 200], ['signin-for-console', on('demo.console.localhost'), 200],
  ['password', '/signin/local', 200], ['signed-out', '/signed-out', 200], ['signed-out-upstream', '/signed-out?from=github', 200],
  ['error-400-client', '/oauth2/authorize?client_id=nobody', 400], ['error-400-redirect', '/oauth2/authorize?client_id=demo-app&redirect_uri=https://evil.example/', 400],
  ['error-404', '/nothing-here', 404], ['error-429', authorize({ pad: 'x'.repeat(4000) }), 429],
];
const inside = [
  ['home', '/', 200], ['home-none', '/?q=no-such-thing', 200], ['account', '/account', 200], ['links', '/account/links', 200], ['sessions', '/account/sessions', 200], ['end-others', '/account/sessions/end-others', 200],
  ['apps', '/account/apps', 200], ['keys', '/account/keys', 200], ['security-log', '/account/security-log', 200], ['claims', '/account/claims', 200], ['signout', '/signout', 200], ['signin-again', '/signin?attempt=AAAAAAAAAAAAAAAAAAAAAAAAAA', 200],
  ['consent', authorize({ prompt: 'consent' }), 200], ['device', '/device', 200], ['device-filled-in', '/device?user_code=WDJB-MJHT', 200], ['device-gone', '/device?request=AAAA', 404],
  ['gateway-403-route', on('closed.localhost'), 403], ['gateway-403-console', on('nobody.console.localhost'), 403],
  ['gateway-502', on('down.localhost'), 502], ['gateway-504', on('slow.localhost'), 504],
  ['gateway-502-console', on('node-down.console.localhost'), 502], ['gateway-504-console', on('node-slow.console.localhost'), 504],
  ['security-log-lost', '/account/security-log?cursor=no-such-place', 400],
];

// look judges a page, or the frame in one.
async function look(page, name, lang, scheme, width, notes, ours = true, frame = page) {
  const where = `${name} ${lang} ${scheme} ${width}`;
  pages += 1;
  const got = await frame.evaluate(({ ours, width }) => {
    const wide = () => document.documentElement.scrollWidth - document.documentElement.clientWidth;
    const r = { wide: wide(), lang: document.documentElement.lang, title: document.title, h1: document.querySelectorAll('h1').length, main: document.querySelectorAll('main').length,
      viewport: document.querySelector('meta[name=viewport]')?.content, text: document.body.innerText,
      small: [...document.querySelectorAll('button, a.btn, nav a, input:not([type=hidden])')].map((e) => (e.type === 'checkbox' && e.closest('label')) || e).filter((e) => e.offsetParent && e.getBoundingClientRect().height < 44).map((e) => e.outerHTML.slice(0, 90)),
      ids: [...document.querySelectorAll('[id]')].map((e) => e.id).filter((id, i, all) => all.indexOf(id) !== i),
      clipped: [...document.querySelectorAll('.btn, h1, h2, label, .tag')].filter((e) => e.scrollWidth > e.clientWidth + 1 && e.clientWidth && !e.closest('.vh')).map((e) => e.outerHTML.slice(0, 90)) };
    if (ours && width > 1000) { document.documentElement.style.fontSize = '200%'; r.big = wide(); document.documentElement.style.fontSize = ''; }
    return r;
  }, { ours, width });
  if (got.wide > 0) bad(where, `${got.wide} px too wide`);
  if (got.big > 0) bad(where, `${got.big} px too wide with text of 200 %`);
  if (got.h1 !== 1 || got.main !== 1) bad(where, 'not one h1 and one main');
  if (/user-scalable|maximum-scale/.test(got.viewport)) bad(where, 'zoom is blocked');
  if (got.small.length) bad(where, `targets under 44 px: ${got.small.join(' ')}`);
  if (got.ids.length) bad(where, `ids twice: ${got.ids}`);
  if (got.clipped.length) bad(where, `clipped: ${got.clipped.join(' ')}`);
  if (ours) {
    if (got.lang !== lang) bad(where, `lang is ${got.lang}`);
    if (!/^.{3,} · RemoteGPU$/.test(got.title)) bad(where, `title ${got.title}`);
    const id = got.text.match(/\b(?:error|signin|password|consent|device|home|account|sessions|apps|claims|notice|layout|nav)\.[a-z_.]+\b(?!@)/g)?.filter((s) => !/^(consent|device)\.gone$/.test(s));
    if (id?.length) bad(where, `a text is missing: ${id}`);
    if (/\{[a-z]+\}|%!|&lt;|&#/.test(got.text)) bad(where, `a place is not filled in: ${got.text.match(/.{0,20}(\{[a-z]+\}|%!|&lt;|&#).{0,20}/)[0]}`);
    if (lang === 'zh-CN' && !/\p{Script=Han}{2}/u.test(got.title)) bad(where, `an English title: ${got.title}`);
    if (lang === 'en' && /\p{Script=Han}/u.test(got.text.replace('中文', ''))) bad(where, 'Chinese on an English page');
  }
  await frame.evaluate(axe); // over the debugging protocol: the page's own policy stays as it is
  const r = await frame.evaluate((runOnly) => axe.run(document, { runOnly, preload: false }), rules);
  for (const v of r.violations) bad(where, `${v.id}: ${v.nodes.map((n) => n.target.join(' ')).join(', ')}`);
  for (const n of notes.splice(0)) if (!/Failed to load resource/.test(n)) bad(where, n);
  if (process.env.SHOTS) await page.screenshot({ path: path.join(process.env.SHOTS, `${name}-${lang}-${scheme}-${width}.png`), fullPage: true });
}

// policy looks at the headers of a page and at what it loads.
function policy(where, r, ancestors = 'none') {
  const h = r.headers(), csp = h['content-security-policy'] || '';
  if (/unsafe|\*|http:(?!\/\/127\.0\.0\.1)/.test(csp) || !/default-src 'none'/.test(csp) || !/form-action 'self'/.test(csp) || !csp.includes(`frame-ancestors '${ancestors}';`) || !/require-trusted-types-for 'script'/.test(csp)) bad(where, `policy: ${csp}`);
  if (h['cache-control'] !== 'no-store' || h['x-content-type-options'] !== 'nosniff' || h['referrer-policy'] !== 'same-origin' || !/camera=\(\)/.test(h['permissions-policy'] || '')) bad(where, `headers: ${JSON.stringify(h)}`);
}

async function submit(page, selector) {
  const loaded = page.waitForEvent('load');
  await page.locator(selector).first().click();
  await loaded;
}

// A device asks; its user types the code in small letters, and answers.
async function device(page, context, answer, see, where) {
  const asked = await (await context.request.post(`${issuer}/oauth2/device_authorization`, { headers: { 'user-agent': 'gatehouse/1.4.0 (Linux; arm64)' }, form: { client_id: 'demo-app', client_secret: 'demo-secret',
    scope: 'openid profile email groups offline_access deployments:write', device_name: 'gpu-a100-07-with-a-name-that-is-longer-than-a-telephone-is-wide' } })).json();
  await page.goto(`${issuer}/device`);
  await page.fill('#user_code', asked.user_code.toLowerCase().replace('-', ' '));
  await submit(page, 'main form button');
  const [allow, deny] = [await page.locator('button[value=allow]').boundingBox(), await page.locator('button[value=deny]').boundingBox()];
  if (Math.abs(allow.width - deny.width) > 1 || Math.abs(allow.height - deny.height) > 1) bad(where, 'the answers are not of one size');
  if (!(await page.locator('#code').innerText()).includes(asked.user_code)) bad(where, 'the question does not show the code');
  await see('device-question');
  await submit(page, `button[value=${answer}]`);
  await see(`device-${answer}`);
  const told = await (await context.request.post(`${issuer}/oauth2/token`, { form: { client_id: 'demo-app', client_secret: 'demo-secret', grant_type: 'urn:ietf:params:oauth:grant-type:device_code', device_code: asked.device_code } })).json();
  if (answer === 'allow' ? !told.access_token : told.error !== 'access_denied') bad(where, `the device is told ${JSON.stringify(told)}`);
}

const formButton = 'form:has(#password) button:not([type=button])';
async function enter(page, u, p) {
  await page.fill('#username', u);
  await page.fill('#password', p);
  await submit(page, formButton);
}

async function run(lang, scheme, width) {
  const me = lang === 'en' ? user : `${user}-2`; // of one person's error pages, 60 an hour are kept
  const { browser, context, page, notes } = await open({ lang, scheme, width });
  const see = (name, ours) => look(page, name, lang, scheme, width, notes, ours);
  context.on('request', (q) => { const h = new URL(q.url()).host; if (h !== host && !h.endsWith(`localhost:${port}`) && !q.url().startsWith('data:')) bad(page.url(), `asks ${q.url()}`); });
  context.on('response', (r) => {
    const u = new URL(r.url());
    if (u.pathname.startsWith('/static/') && (r.status() !== 200 || !/\.[0-9a-f]{12}\.(css|js|svg)$/.test(u.pathname) || r.headers()['cache-control'] !== 'public, max-age=31536000, immutable')) bad(page.url(), `asset ${u.pathname}`);
  });
  const visit = async (list) => {
    for (const [name, p, status] of list) {
      const go = () => page.goto(p.startsWith('/') ? issuer + p : p);
      let r = await go();
      // The first within a minute fits the limit, the next is too many, unless a minute has begun between them.
      for (let i = 0; i < 3 && status === 429 && r.status() !== 429; i += 1) r = await go();
      if (r.status() !== status) bad(`${name} ${lang}`, `status ${r.status()}, not ${status}`);
      policy(`${name} ${lang}`, r);
      await see(name);
    }
  };
  // In a frame: what a page of the same console embeds. Its links leave the frame, the broker is never framed.
  const embed = async (name, label, status) => {
    const at = on(label);
    await page.route(`${at}embedder`, (route) => route.fulfill({ contentType: 'text/html', body: '<!doctype html><title>x</title><style>body{margin:0}iframe{width:100%;height:90vh;border:0}</style><iframe title="console"></iframe>' }));
    await page.goto(`${at}embedder`);
    const answered = page.waitForResponse((r) => r.url() === at);
    await page.evaluate((u) => { document.querySelector('iframe').src = u; }, at);
    const r = await answered;
    const frame = await (await page.locator('iframe').elementHandle()).contentFrame();
    await frame.waitForURL(at);
    await frame.locator('h1').waitFor();
    if (r.status() !== status) bad(`${name} ${lang}`, `status ${r.status()}, not ${status}`);
    policy(`${name} ${lang}`, r, 'self');
    const links = await frame.$$eval('a', (all) => all.filter((a) => a.protocol.startsWith('http') && (a.host !== location.host || a.target)).map((a) => `${a.target} ${a.rel}`));
    if (!links.length || links.some((l) => l !== '_blank noopener noreferrer')) bad(`${name} ${lang}`, `a link leads the frame away: ${JSON.stringify(links)}`);
    await look(page, name, lang, scheme, width, notes, true, frame);
    return frame;
  };
  // A page that asks for itself again would go while it is looked at, and only the debugging protocol can hold it.
  const still = async (at) => {
    const cdp = await context.newCDPSession(page);
    cdp.on('Fetch.requestPaused', ({ requestId, responseStatusCode, responseHeaders }) => (responseHeaders
      ? cdp.send('Fetch.continueResponse', { requestId, responseCode: responseStatusCode, responseHeaders: responseHeaders.filter((h) => h.name.toLowerCase() !== 'refresh') })
      : cdp.send('Fetch.continueRequest', { requestId })).catch(() => {}));
    await cdp.send('Fetch.enable', { patterns: [{ urlPattern: at, requestStage: 'Response' }] });
    return () => cdp.detach();
  };
  try {
    await visit(outside);
    const framed = await embed('framed', 'demo.console.localhost', 401);
    if (await framed.locator('a').count() !== 1) bad(`framed ${lang}`, 'not one link');
    const stranger = `nobody-${lang}-${scheme}-${width}`;
    await page.goto(`${issuer}/signin/local`);
    await enter(page, stranger, 'wrong');
    await see('password-wrong');
    await enter(page, stranger, 'wrong');
    await enter(page, stranger, 'wrong');
    if (!/min|分钟/.test(await page.locator('#problem').innerText())) bad('password-paused', await page.locator('#problem').innerText());
    await see('password-paused');
    await page.goto(`${issuer}/signin/ldap`);
    await enter(page, stranger, 'wrong');
    await see('password-unavailable');
    await page.goto(`${issuer}/signin/local`);
    await context.clearCookies();
    await enter(page, me, password);
    if (!/cookie/i.test(await page.locator('.note').innerText())) bad('signin-cookies', await page.locator('.note').innerText());
    await see('signin-cookies');
    // A form posted to a gateway host without a session: no redirect would keep its body.
    await page.goto(`${issuer}/healthz`);
    await page.evaluate((to) => { const f = document.createElement('form'); f.method = 'post'; f.action = to; document.body.append(f); f.submit(); }, on('api.localhost'));
    await page.waitForURL(on('api.localhost'));
    await see('gateway-401');

    // The hop, held fast. It is asked for by hand: what a redirect leads to cannot be intercepted.
    await page.goto(`${issuer}/signin/local`);
    const posted = await context.request.post(`${issuer}/signin/local`, { maxRedirects: 0, headers: { 'sec-fetch-site': 'same-origin' },
      form: { username: me, password, attempt: await page.inputValue('input[name=attempt]') } });
    await page.route('**/resume/*', async (route) => {
      const r = await route.fetch({ maxRedirects: 0 });
      const headers = { ...r.headers() };
      delete headers.refresh;
      await route.fulfill({ status: r.status(), headers, body: (await r.text()).replace(/<meta http-equiv="refresh"[^>]*>/, '') });
    });
    await page.goto(issuer + posted.headers().location);
    await see('hop');
    await page.unroute('**/resume/*');
    await submit(page, 'main a.btn');
    await visit(inside.filter(([name]) => width === 320 || name !== 'gateway-504-console')); // which takes five seconds
    await page.goto(`${issuer}/device`);
    await page.fill('#user_code', 'WDJB-MJH'); // no guess: it cannot be one
    await submit(page, 'main form button');
    await see('device-wrong');
    await device(page, context, 'allow', see, `device ${lang} ${width}`);
    await device(page, context, 'deny', see, `device ${lang} ${width}`);
    await visit([['sessions-device', '/account/sessions', 200]]);
    const sleeper = `waking-${lang}-${scheme}-${width}.console.localhost`.toLowerCase();
    const go = await still(on(sleeper));
    await visit([['gateway-503-waking', on(sleeper), 503]]);
    await embed('framed-503-waking', sleeper, 503);
    await go();
    // More than one page of the security log.
    for (let i = 0; i < 20; i += 1) {
      await page.goto(`${issuer}/account/security-log`);
      if (await page.locator('a[href*="cursor="]').count()) break;
      await page.evaluate(async () => {
        const headers = { 'content-type': 'application/json' };
        for (let k = 0; k < 6; k += 1) {
          const made = await (await fetch('/api/v1/me/api-keys', { method: 'POST', headers, body: JSON.stringify({ name: `key ${k}`, expires_in: '1h' }) })).json();
          await fetch(`/api/v1/me/api-keys/${made.id}`, { method: 'DELETE', headers });
        }
      });
    }
    await submit(page, 'a[href*="cursor="]');
    await see('security-log-older');
    // An error page once more, by its reference; it is kept in a moment of its own.
    await page.goto(on('closed.localhost'));
    const again = `${issuer}/error/${await page.innerText('#ref')}`;
    let kept = await page.goto(again);
    for (let i = 0; i < 50 && kept.status() !== 200; i += 1) { await page.waitForTimeout(100); kept = await page.goto(again); }
    if (kept.status() !== 200) bad(`error-again ${lang}`, `status ${kept.status()}`);
    policy(`error-again ${lang}`, kept);
    await see('error-again');
    await page.goto(on('demo.console.localhost'));
    await page.locator('#state:text("connected")').waitFor();
    await see('demo-console', false);
    await context.clearCookies({ name: 'gatehouse' });
    await visit([['signin-last-used', '/signin', 200]]);
    if (!await page.locator('a.btn.idp .tag.info').count()) bad(`signin-last-used ${lang}`, 'the method used last is not marked');
  } catch (e) { bad(`${page.url()} ${lang} ${scheme} ${width}`, e.stack); } finally { await browser.close(); }
}

const queue = ['en', 'zh-CN'].flatMap((l) => ['light', 'dark'].flatMap((s) => [1280, 320].map((w) => [l, s, w])));
const worker = async () => { for (let job = queue.shift(); job; job = queue.shift()) await run(...job); };
await Promise.all([worker(), worker()]);

// The check can fail: a page with faults must be found out.
{
  const { browser, page } = await open({});
  await page.setContent('<html><body><img src="x"><input><p style="color:#ccc;background:#fff">low</p></body></html>');
  await page.evaluate(axe);
  const r = await page.evaluate((runOnly) => axe.run(document, { runOnly, preload: false }), rules);
  if (r.violations.length < 4) bad('control', `the faulty page has ${r.violations.length} violations`);
  await browser.close();
}
console.log(`${failed ? 'FAIL' : 'PASS'} ${pages} pages`);
process.exit(failed ? 1 : 0);
