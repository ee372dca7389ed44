// upstream.mjs ISSUER CONNECTOR USER PASSWORD: a person comes by a provider that the browser is sent to. Signs in there, lands
// on the portal, opens the API and the console through the gateway, signs out, and finds both closed. NOJS=1: without scripts.
// Prints PASS or FAIL for each step; exits 1 on a failure.
import { open, settle } from './browser.mjs';

const [issuer, connector, user, password] = process.argv.slice(2);
const port = new URL(issuer).port;
const api = `http://api.localhost:${port}`, con = `http://demo.console.localhost:${port}`;
const { browser, page } = await open({ lang: 'en' });
let failed = 0;
const check = (ok, name, detail = '') => { console.log(`${ok ? 'PASS' : 'FAIL'} ${name}${detail ? `: ${detail}` : ''}`); if (!ok) failed += 1; };

try {
  await page.goto(`${issuer}/account`);
  await settle(page, 2000);
  await page.locator(`a[href*="/signin/${connector}"]`).first().click();
  await page.waitForURL((u) => u.port !== port, { timeout: 8000 });
  check(true, 'the button leads to the provider', new URL(page.url()).pathname);
  await page.fill('input[name=login]', user);
  await page.fill('input[name=password]', password);
  await page.locator('button:not([name=cancel])').click();
  await page.waitForURL((u) => u.port === port, { timeout: 8000 });
  await settle(page, 3000);
  check(new URL(page.url()).pathname === '/account', 'lands where it wanted to go', page.url());
  await page.goto(`${api}/echo`);
  await settle(page, 2000);
  check(page.url() === `${api}/echo` && /X-Gatehouse-User/.test(await page.content()), 'the API opens through the gateway', page.url());
  await page.goto(`${con}/`);
  await settle(page, 2000);
  check(page.url() === `${con}/` && /Demo console/.test(await page.content()), 'the console opens through the gateway', page.url());
  await page.goto(`${issuer}/signout`);
  await page.locator('button[name=here]').click();
  await settle(page, 3000);
  for (const [name, u] of [['API', `${api}/echo`], ['console', `${con}/`]]) {
    await page.goto(u);
    await settle(page, 2000);
    check(new URL(page.url()).host === new URL(issuer).host && /\/signin/.test(page.url()), `the ${name} is closed`, page.url());
  }
} catch (e) {
  check(false, 'went through', `${e.message} at ${page.url()}`);
} finally {
  await browser.close();
}
process.exit(failed ? 1 : 0);
