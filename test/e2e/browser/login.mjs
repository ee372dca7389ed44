// login.mjs WAY ADDRESS USER PASSWORD [CODE]: what a person does in the browser for `gatehouse login`. WAY is loopback (the
// address is what the command opens), allow or deny (the address is the one of the device page, the code is typed). Prints
// PASS or FAIL for each step; exits 1 on a failure.
import { open, settle } from './browser.mjs';

const [way, address, user, password, code] = process.argv.slice(2);
const { browser, page, notes } = await open({ lang: 'en' });
let failed = 0;
const check = (ok, name, detail = '') => { console.log(`${ok ? 'PASS' : 'FAIL'} ${name}${detail ? `: ${detail}` : ''}`); if (!ok) failed += 1; };

try {
  await page.goto(address);
  await settle(page, 2000);
  check(/\/signin/.test(page.url()), 'a stranger gets the sign-in page', page.url());
  if (!(await page.locator('input[type=password]').count())) await page.locator('a[href*="/signin/local"]').first().click();
  await settle(page, 2000);
  await page.fill('#username', user);
  await page.fill('#password', password);
  await page.locator('form:has(#password) button:not([type=button])').click();
  await settle(page, 3000);
  if (way === 'loopback') {
    check(/^http:\/\/127\.0\.0\.1:\d+\/callback\?/.test(page.url()), 'comes back to the command', page.url().split('?')[0]);
    check(/close this page/.test(await page.locator('main').textContent()), 'the page says that it can be closed');
    check(await page.locator('script, style, link[rel=stylesheet]').count() === 0, 'the page loads nothing');
  } else {
    check(new URL(page.url()).pathname === '/device', 'the device page, after the sign-in', page.url());
    await page.fill('#user_code', code.toLowerCase().replace('-', ' '));
    await page.locator('form:has(#user_code) button').click();
    await settle(page, 2000);
    const shown = await page.locator('main').textContent();
    check(shown.includes(code), 'the code is shown for comparison');
    check(/gatehouse\//i.test(shown), 'the program is named', (shown.match(/gatehouse\/\S+ \([^)]*\)/) || [''])[0]);
    await page.locator(`button[name=answer][value=${way}]`).click();
    await settle(page, 2000);
    check(await page.locator('button[name=answer]').count() === 0, 'it is answered', await page.locator('h1').textContent());
  }
  const bad = notes.filter((n) => !/favicon/.test(n));
  check(bad.length === 0, 'no error in the console', bad.join(' | '));
} catch (e) {
  check(false, 'the way through', e.message.split('\n')[0]);
} finally {
  await browser.close();
}
process.exit(failed ? 1 : 0);
