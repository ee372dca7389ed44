// saml.mjs ISSUER USER PASSWORD IDP-INITIATED-URL IDP-LOGOUT-URL: a person and a SAML identity provider on another site.
// Signs in from our page, signs out on both sides from ours, signs in again, is signed out from theirs, and comes in from
// theirs. With "-" for the last two only the first sign-in is done.
import { open, settle } from './browser.mjs';

const [issuer, user, password, initiated, logout] = process.argv.slice(2);
const { browser, page } = await open({ lang: 'en' });
let failed = 0;
const check = (ok, name, detail = '') => { console.log(`${ok ? 'PASS' : 'FAIL'} ${name}${detail ? `: ${detail}` : ''}`); if (!ok) failed += 1; };
const ours = () => page.url().startsWith(issuer);
const inside = async () => { const r = await page.goto(`${issuer}/account`); await settle(page, 1000); return r.ok() && new URL(page.url()).pathname === '/account'; };

// Waits until we are back or asked for a password.
async function along() {
  for (let i = 0; i < 6; i += 1) {
    await settle(page, 1500);
    if (await page.locator('input[type=password]').count()) return;
    if (ours() && !/\/(callback|slo)/.test(page.url())) return;
  }
}

async function start() {
  await page.goto(`${issuer}/`);
  await settle(page, 1000);
  if (await page.locator('a[href*="/signin/acme"]').count()) await page.locator('a[href*="/signin/acme"]').first().click();
  await along();
}

async function typeIn() {
  await page.fill('input[name=username]', user);
  await page.fill('input[type=password]', password);
  await page.locator('input[type=password]').press('Enter');
  await along();
}

try {
  await start();
  check(!ours() && await page.locator('input[type=password]').count() > 0, 'the identity provider asks for the password', page.url());
  check(new URL(page.url()).hostname !== new URL(issuer).hostname, 'it is on another site', page.url());
  await typeIn();
  check(ours() && new URL(page.url()).pathname === '/', 'lands on the portal', page.url());
  await page.goto(`${issuer}/account/claims`);
  const claims = await page.content();
  check(/acme:staff/.test(claims), 'the groups are there');
  check(/alice@example\.org/.test(claims), 'the address is there');
  if (initiated !== '-') {
    await page.goto(`${issuer}/signout`);
    await page.locator('button[name=here]').click();
    await along();
    check(new URL(page.url()).pathname === '/signed-out' && !/may still be signed in/i.test(await page.content()), 'signs out on both sides', page.url());
    await start();
    check(!ours() && await page.locator('input[type=password]').count() > 0, 'the identity provider has forgotten the person', page.url());
    await typeIn();
    check(await inside(), 'signs in again');
    await page.goto(logout);
    await settle(page, 2000);
    const confirm = page.locator('#kc-logout');
    if (await confirm.count()) { await confirm.click(); await settle(page, 2000); }
    await settle(page, 2000);
    check(!(await inside()), 'is signed out from the identity provider', page.url());
    await page.goto(initiated);
    await settle(page, 1500);
    if (await page.locator('input[type=password]').count()) await typeIn(); else await along();
    await settle(page, 2000);
    check(ours() && new URL(page.url()).pathname === '/account/apps' || ours() && new URL(page.url()).pathname === '/', 'comes in from the identity provider', page.url());
    check(await inside(), 'and has a session');
  }
} catch (e) {
  check(false, 'the script', `${e.message} at ${page.url()}`);
  console.log((await page.content()).slice(0, 3000));
} finally {
  await browser.close();
}
process.exit(failed ? 1 : 0);
