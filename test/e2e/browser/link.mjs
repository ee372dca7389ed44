// link.mjs ISSUER: linked accounts and e-mail first, as a person sees them; the server is link_browser_test.go's. Each new
// page is checked with axe in both languages and at 320 px. NOJS=1: the same without scripts (and without axe).
import fs from 'node:fs';
import { createRequire } from 'node:module';
import { open } from './browser.mjs';

const axe = fs.readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const rules = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
const [issuer] = process.argv.slice(2);
const nojs = process.env.NOJS === '1';
let failed = 0;
const check = (ok, name, detail = '') => { console.log(`${ok ? 'PASS' : 'FAIL'} ${name}${ok || !detail ? '' : `: ${detail}`}`); if (!ok) failed += 1; };

async function look(page, name) {
  if (nojs) return;
  for (const width of [1280, 320]) {
    await page.setViewportSize({ width, height: 800 });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    check(wide === 0, `${name} at ${width} px is not sideways`, `${wide} px`);
    await page.evaluate(axe);
    const r = await page.evaluate((values) => globalThis.axe.run(document, { runOnly: { type: 'tag', values } }), rules);
    check(r.violations.length === 0, `${name} at ${width} px has no violation`, r.violations.map((v) => `${v.id} ${v.nodes[0].html.slice(0, 120)}`).join('; '));
  }
  await page.setViewportSize({ width: 1280, height: 800 });
}

async function password(page, user) {
  await page.fill('#username', user);
  await page.fill('#password', 'demo');
  await page.locator('form:has(#password) button:not([type=button])').click();
}

async function atGitHub(page, user) {
  await page.locator('input[name=login]').waitFor();
  await page.fill('input[name=login]', user);
  await page.fill('input[name=password]', `${user}-pw`);
  await page.locator('button').first().click();
}
const at = (page, path) => page.waitForURL((u) => u.origin === issuer && u.pathname === path, { timeout: 10000 });

async function story(name, lang, tell) {
  const b = await open({ lang, nojs });
  try {
    await tell(b);
    const bad = b.notes.filter((n) => !/Failed to load resource/.test(n));
    check(bad.length === 0, `${name}: nothing on the console`, bad.join(' | '));
  } catch (e) { check(false, name, `${e.message.split('\n')[0]} at ${b.page.url()}`); } finally { await b.browser.close(); }
}

await story('link', 'en', async ({ page }) => {
  await page.goto(`${issuer}/account/links`);
  check(await page.locator('#email').count() === 1, 'the sign-in page asks for the e-mail address');
  await look(page, 'sign-in');
  await password(page, 'demo');
  await at(page, '/account/links');
  check(await page.locator('tbody tr').count() === 1 && await page.locator('tbody form').count() === 0, 'the only sign-in cannot be unlinked');
  await page.locator('form[action$="/link"] button').click();
  await atGitHub(page, 'alice');
  await at(page, '/account/links');
  check(await page.locator('tbody tr').count() === 2 && /alice/.test(await page.locator('table').innerText()), 'GitHub is linked');
  await look(page, 'linked accounts');

  await page.goto(`${issuer}/signout`);
  await page.locator('button[name=here]').click();
  await at(page, '/signed-out');
  await page.goto(`${issuer}/account`);
  await page.fill('#email', 'who@nobody.example');
  await page.locator('form:has(#email) button').click();
  await page.locator('text=Choose how to sign in.').waitFor();
  check(true, 'an unknown domain leaves the choice');
  await look(page, 'sign-in, unknown domain');
  await page.fill('#email', 'alice@example.org');
  await page.locator('form:has(#email) button').click(); // GitHub knows alice still
  await at(page, '/account');
  check(/Demo Person/.test(await page.locator('header').innerText()), 'the e-mail address leads by GitHub to the same account');

  await page.goto(`${issuer}/account/links`);
  const row = page.locator('tr:has-text("Demo account")');
  await row.locator('button').click();
  await at(page, '/account/links');
  check(await page.locator('tbody tr').count() === 1 && /alice/.test(await page.locator('table').innerText()), 'the local sign-in is unlinked');
});

await story('existing', 'zh-CN', async ({ page }) => {
  // Anna has signed in once before, so that her account is there.
  await page.goto(`${issuer}/account`);
  await password(page, 'anna');
  await at(page, '/account');
  await page.goto(`${issuer}/signout`);
  await page.locator('button[name=here]').click();
  await at(page, '/signed-out');
  await page.goto(`${issuer}/account/claims`);
  await page.locator('a.btn[href^="/signin/github"]').first().click();
  await atGitHub(page, 'bob');
  await page.locator('h1:has-text("您已有账号")').waitFor();
  await look(page, 'existing account');
  await page.locator('a.btn[href^="/signin/local"]').click();
  await password(page, 'anna');
  await at(page, '/account/links/confirm');
  await look(page, 'confirm');
  await page.locator('form[action="/account/links/confirm"] button').click();
  await at(page, '/account/claims');
  await page.goto(`${issuer}/account/links`);
  check(await page.locator('tbody tr').count() === 2, 'both lead to the account');
  await look(page, 'linked accounts, Chinese');
});
process.exit(failed ? 1 : 0);
