// strangers.mjs ISSUER USER PASSWORD: the visitor has console A, console B and the API open, each with a cookie of its own;
// the page of console A (attack.html) tries to act on the others with them.
import { open, settle } from './browser.mjs';

const [issuer, user, password] = process.argv.slice(2);
const { port } = new URL(issuer);
const { browser, context, page } = await open({ lang: 'en' });
let failed = 0;
const check = (ok, name, detail = '') => { console.log(`${ok ? 'PASS' : 'FAIL'} ${name}${detail ? `: ${detail}` : ''}`); if (!ok) failed += 1; };
try {
  for (const host of ['b.console.localhost', 'api.localhost']) {
    await page.goto(`http://${host}:${port}/`);
    await settle(page, 1000);
    if (await page.locator('#password').count()) {
      await page.fill('#username', user);
      await page.fill('#password', password);
      await page.locator('form:has(#password) button:not([type=button])').click();
      await page.waitForURL((u) => u.hostname === host);
    }
    const names = (await context.cookies(`http://${host}:${port}/`)).map((c) => c.name);
    check(names.includes('gatehouse-console'), `${host} has a cookie of its own`, names.join(' '));
  }
  await page.goto(`http://a.console.localhost:${port}/`);
  await page.waitForFunction(() => document.title.startsWith('done'), undefined, { timeout: 60000 });
  const said = await page.title();
  check(said === 'done; read: nothing', 'the page of console A reads nothing of the others', said);
  await page.goto(`http://b.console.localhost:${port}/`);
  check(/console B/.test(await page.content()), "the visitor's own visit still opens console B", page.url());
} catch (e) {
  check(false, 'the visit', `${e.message}\n  at ${page.url()}`);
} finally { await browser.close(); }
process.exit(failed ? 1 : 0);
