// recover.mjs ISSUER CALLBACK USER PASSWORD: no dead ends. Forms end at a client on another site, through our own 200 page;
// back, reload, a second tab, old and bookmarked addresses come to a sign-in that works. NOJS=1: the same without scripts.
// CALLBACK is http://localhost:PORT/callback, where this program stands in for the client `third-party` (asks for consent).
import http from 'node:http';
import { open } from './browser.mjs';

const [issuer, callback, user, password] = process.argv.slice(2);
const nojs = process.env.NOJS === '1';
let failed = 0;
const check = (ok, name, detail = '') => { console.log(`${ok ? 'PASS' : 'FAIL'} ${name}${ok || !detail ? '' : `: ${detail}`}`); if (!ok) failed += 1; };
const rp = http.createServer((q, s) => { s.setHeader('content-type', 'text/html'); s.end('<!doctype html><title>client</title><h1>arrived'); }).listen(new URL(callback).port, '127.0.0.1');
const authorize = (state, more = {}) => `${issuer}/oauth2/authorize?${new URLSearchParams({ response_type: 'code', client_id: 'demo-app', redirect_uri: callback, scope: 'openid', state,
  code_challenge: 'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM', code_challenge_method: 'S256', ...more })}`;
const local = 'a.btn[href^="/signin/local"]', github = 'a.btn[href^="/signin/github"]';

// fill sends the form of the page, which may be behind the button of its method.
async function fill(page, method = local) {
  if (!await page.locator('#password').count()) await page.locator(method).first().click();
  await page.locator('#password').waitFor();
  await page.fill('#username', user);
  await page.fill('#password', password);
  await page.locator('form:has(#password) button:not([type=button])').click();
}
const arrived = async (page, state, what = 'code') => { await page.waitForURL((u) => u.href.startsWith(`${callback}?`) && u.searchParams.get('state') === state && u.searchParams.has(what), { timeout: 8000 }); return true; };
const at = (page) => page.url().replace(issuer, '').slice(0, 90);

async function story(name, tell) {
  const b = await open({ lang: 'en', nojs });
  try { await tell(b); } catch (e) { check(false, name, `${e.message.split('\n')[0]} at ${b.page.url()}`); } finally { await b.browser.close(); }
}

await story('form-action', async ({ page, notes }) => {
  const seen = [];
  page.on('response', (r) => { if (r.request().isNavigationRequest()) seen.push(`${r.request().method()} ${new URL(r.url()).pathname.replace(/\/[A-Z2-7]{26}$/, '/ID')} ${r.status()}`); });
  await page.goto(authorize('s1'));
  check(/Demo app/.test(await page.locator('.card').innerText()), 'the page says what one goes on to');
  await fill(page);
  check(await arrived(page, 's1'), 'sign-in: the form ends at a client on another site');
  const i = seen.indexOf('POST /signin/local 303');
  check(i >= 0 && seen[i + 1] === 'GET /resume/ID 200' && seen[i + 2] === 'GET /oauth2/authorize 303', 'by a page of ours that answers 200', seen.join(', '));
  for (const [state, button, what] of [['s2', 'allow', 'code'], ['s3', 'deny', 'error']]) {
    seen.length = 0;
    await page.goto(authorize(state, { client_id: 'third-party', prompt: 'consent' }));
    await page.locator(`button[value=${button}]`).click();
    check(await arrived(page, state, what), `consent: ${button} ends at the client`);
    check(seen.includes('POST /consent/ID 200'), `${button} is answered by a page of ours`, seen.join(', '));
  }
  check(new URL(page.url()).searchParams.get('error') === 'access_denied', 'the client is told of the refusal');
  const blocked = notes.filter((n) => /Content Security|Refused/.test(n));
  check(!blocked.length, 'no policy was broken', blocked.join(' | '));
});

await story('back', async ({ page }) => {
  await page.goto(authorize('b1'));
  await fill(page);
  await arrived(page, 'b1');
  await page.goBack();
  check(page.url().startsWith(issuer) && await page.locator('main h1').count() === 1, 'back from the client is a page of ours', at(page));
  await page.locator('a.btn.primary').click();
  check(await page.waitForURL(`${issuer}/`).then(() => true), 'and leads on as who one is', at(page));
  // After signing out nothing is shown from memory.
  await page.goto(`${issuer}/account`);
  await page.goto(`${issuer}/signout`);
  await page.locator('button[name=here]').click();
  await page.waitForURL(/signed-out/);
  await page.goBack();
  await page.goBack();
  check(/\/signin/.test(page.url()) && !/demo@example/.test(await page.content()), 'back after signing out shows nobody', at(page));
  await fill(page);
  check(await page.waitForURL(/\/account$/).then(() => true), 'and signing in returns to that page', at(page));
});

await story('reload', async ({ page }) => {
  await page.goto(authorize('r1'));
  await page.reload();
  await page.reload();
  await page.goto(`${issuer}/signin/local${new URL(page.url()).search}`);
  await page.reload();
  await page.fill('#username', user);
  await page.fill('#password', 'wrong');
  await page.locator('form:has(#password) button:not([type=button])').click();
  await page.locator('#problem').waitFor();
  await page.goBack(); // the form before the mistake
  await fill(page);
  check(await arrived(page, 'r1'), 'reloads, a mistake and a step back keep the target');
});

await story('tabs', async ({ context, page }) => {
  const second = await context.newPage(), copy = await context.newPage();
  await page.goto(authorize('t1'));
  await second.goto(authorize('t2'));
  await copy.goto(page.url());
  await fill(second);
  check(await arrived(second, 't2'), 'the second tab signs in');
  await fill(page);
  check(await arrived(page, 't1'), 'the first goes to its own target after that');
  await fill(copy);
  await copy.locator('.note').waitFor();
  check(/out of date/.test(await copy.locator('.note').innerText()), 'a copy of a tab that is done starts again, and says why', await copy.locator('.note').innerText());
  await copy.locator('a.btn.primary').click();
  check(await copy.waitForURL(`${issuer}/`).then(() => true), 'and is not asked for a password again');
});

await story('ten tabs', async ({ context, page }) => {
  await page.goto(authorize('oldest'));
  const tabs = [];
  for (let i = 0; i < 9; i += 1) { const t = await context.newPage(); await t.goto(authorize(`n${i}`)); tabs.push(t); }
  await fill(tabs[8]);
  check(await arrived(tabs[8], 'n8'), 'the last of ten tabs signs in');
  await fill(tabs[4]);
  check(await arrived(tabs[4], 'n4'), 'one of the middle too');
  await page.reload();
  check(await page.locator('.note').count() === 1 && (await page.locator('main .btn').count()) > 1, 'the oldest is a fresh page', at(page));
  const names = (await context.cookies()).filter((c) => c.name.startsWith('gatehouse-attempt-'));
  check(names.length <= 8, 'and the cookies are bounded', String(names.length));
});

await story('bookmarks', async ({ context, page }) => {
  const left = [];
  page.on('request', (q) => { if (new URL(q.url()).host !== new URL(issuer).host && !q.url().startsWith('data:')) left.push(q.url()); });
  const id = 'A'.repeat(26);
  for (const p of ['/signin', `/signin?attempt=${id}`, '/signin/local', `/signin/local?attempt=${id}`, '/signin/github', `/signin/github?attempt=${id}`, `/resume/${id}`, `/auth/github/callback?code=x&state=${id}`, '/auth/github/callback', `/auth/github/callback?error=access_denied&state=${id}`, '/signed-out', '/signout', `/gateway/start?rd=${encodeURIComponent(`http://api.localhost:${new URL(issuer).port}/echo`)}`]) {
    await context.clearCookies();
    const r = await page.goto(issuer + p);
    check(r.status() === 200 && !left.length, `${p.replace(id, 'ID').slice(0, 50)} by a stranger is a page of ours`, `${r.status()} ${left}`);
    left.length = 0;
    if (await page.locator('#password, main a.btn').count() === 0) check(false, 'with a way on', p);
  }
  for (const p of ['/account', '/account/sessions', '/account/apps', '/account/claims', '/account/sessions/end-others', '/']) {
    await context.clearCookies();
    await page.goto(issuer + p);
    await fill(page);
    check(await page.waitForURL(issuer + p, { timeout: 8000 }).then(() => true), `${p} comes back after signing in`, at(page));
  }
  const gone = await page.goto(`${issuer}/consent/${id}`);
  check(gone.status() === 404 && await page.locator('main a.btn').count() > 0, 'a consent that is gone has a way on', String(gone.status()));
});

await story('another method', async ({ page }) => {
  await page.goto(authorize('m1'));
  await page.locator(github).click();
  await page.locator('input[name=login]').waitFor();
  await page.goBack();
  await fill(page);
  check(await arrived(page, 'm1'), 'to GitHub, back, and in by another method');
});

await story('cancelled', async ({ page }) => {
  await page.goto(authorize('c1'));
  await page.locator(github).click();
  await page.locator('button[name=cancel]').click();
  await page.locator('.note').waitFor();
  check(/cancelled at GitHub/.test(await page.locator('.note').innerText()), 'who cancels at GitHub is told so');
  await page.reload();
  check(await page.locator(github).count() === 1, 'a reload of that page is a sign-in page', at(page));
  await page.locator('footer button[name=theme]').click();
  await page.waitForURL(/\/signin\?attempt=/);
  await page.locator(github).click();
  await page.fill('input[name=login]', 'alice');
  await page.fill('input[name=password]', 'alice-pw');
  await page.locator('button:not([name=cancel])').click();
  check(await arrived(page, 'c1'), 'and the target is kept, through GitHub this time');
});

await story('hops', async ({ page }) => {
  await page.goto(`${issuer}/`);
  await fill(page);
  await page.waitForURL(`${issuer}/`);
  const port = new URL(issuer).port;
  for (const [u, status] of [[`http://closed.localhost:${port}/`, 403], [`http://nobody.console.localhost:${port}/`, 403]]) {
    let n = 0;
    const count = (r) => { if (r.request().isNavigationRequest() && r.status() >= 300 && r.status() < 400) n += 1; };
    page.on('response', count);
    const r = await page.goto(u);
    page.off('response', count);
    check(r.status() === status && n <= 3, `${u} refuses after ${n} hops, and stays`, `${r.status()} ${page.url()}`);
  }
});
rp.closeAllConnections();
rp.close();
process.exit(failed ? 1 : 0);
