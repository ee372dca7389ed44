// keyboard.mjs ISSUER USER PASSWORD: what one cannot see in a picture. Order and visibility of focus, the error summary,
// autocomplete, language and theme without scripts, reduced motion, forced colours, no flash, weight of a page.
import { open } from './browser.mjs';

const [issuer, user, password] = process.argv.slice(2);
let failed = 0;
const check = (ok, name, detail = '') => { console.log(`${ok ? 'PASS' : 'FAIL'} ${name}${ok || !detail ? '' : `: ${detail}`}`); if (!ok) failed += 1; };
const formButton = 'form:has(#password) button:not([type=button])';
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
async function submit(page, selector) {
  const loaded = page.waitForEvent('load');
  await page.locator(selector).first().click();
  await loaded;
}
async function signIn(page) {
  await page.goto(`${issuer}/signin/local`);
  await page.fill('#username', user);
  await page.fill('#password', password);
  await page.locator(formButton).click();
  await page.waitForURL(`${issuer}/`);
}
// tabs presses Tab from the top until the page is left, and says for each stop what it is and whether its focus shows.
async function tabs(page) {
  await page.evaluate(() => document.activeElement.blur());
  const out = [];
  for (let i = 0; i < 40; i += 1) {
    await page.keyboard.press('Tab');
    const stop = await page.evaluate(() => {
      const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
      if (e === document.body || !e) return null;
      const top = document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2);
      return { name: e.name || e.id || e.getAttribute('href') || e.textContent.trim(), ring: s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2, inside: r.right > 0 && r.bottom > 0 && r.left < innerWidth && r.top < innerHeight, hidden: !top || !(e === top || e.contains(top) || top.contains(e)) };
    });
    if (!stop) break;
    out.push(stop);
  }
  return out;
}

for (const scheme of ['light', 'dark']) {
  const { browser, context, page } = await open({ lang: 'en', scheme });
  try {
    await page.goto(`${issuer}/signin`);
    let stops = await tabs(page);
    const order = stops.map((s) => s.name.replace(/\?attempt=.*/, ''));
    check(same(order, ['#main', `${'/'}`, '/signin/local', '/signin/github', '/signin/google', '/signin/ldap', '/device', 'mailto:help@example.com', 'lang', 'theme']), `${scheme}: order on the sign-in page`, order.join(' > '));
    check(stops.every((s) => s.ring && s.inside && !s.hidden), `${scheme}: focus shows`, JSON.stringify(stops.filter((s) => !s.ring || !s.inside || s.hidden)));
    await page.goto(`${issuer}/signin/local`);
    check(await page.evaluate(() => document.activeElement.id) === 'username', `${scheme}: the cursor stands in the first field`);
    stops = await tabs(page);
    check(stops.every((s) => s.ring && s.inside && !s.hidden) && stops.some((s) => s.name === 'password'), `${scheme}: focus shows on the form`, JSON.stringify(stops));
    // skip link
    await page.goto(`${issuer}/signin`);
    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    check(await page.evaluate(() => document.activeElement.id) === 'main', `${scheme}: the skip link goes to the content`);
    await signIn(page);
    for (const p of ['/', '/account/sessions', '/account/keys', '/account/claims', '/signout']) {
      await page.goto(issuer + p);
      stops = await tabs(page);
      check(stops.length > 8 && stops.every((s) => s.ring && s.inside && !s.hidden), `${scheme}: focus shows on ${p}`, JSON.stringify(stops.filter((s) => !s.ring || !s.inside || s.hidden)));
    }
  } catch (e) { check(false, `${scheme} at ${page.url()}`, e.stack); } finally { await browser.close(); }
}

// The form: tokens, showing the password, the summary of an error, all by keyboard.
for (const nojs of [false, true]) {
  const { browser, page } = await open({ lang: 'en', nojs });
  const as = nojs ? 'scripts off' : 'scripts on';
  try {
    await page.goto(`${issuer}/signin/local`);
    const tokens = await page.$$eval('#username, #password', (f) => f.map((e) => [e.autocomplete, e.type, e.autocapitalize, e.spellcheck]));
    check(tokens[0][0] === 'username' && tokens[0][2] === 'none' && tokens[0][3] === false && same(tokens[1].slice(0, 2), ['current-password', 'password']), `${as}: autocomplete`, JSON.stringify(tokens));
    check(await page.locator('[data-reveal]').isVisible() === !nojs, `${as}: the button that shows the password`);
    if (!nojs) {
      await page.fill('#password', 'seen');
      await page.locator('[data-reveal]').press('Enter');
      check(same(await page.$eval('#password', (e) => [e.type, e.value]), ['text', 'seen']) && await page.getAttribute('[data-reveal]', 'aria-pressed') === 'true', 'the password is shown');
    }
    await page.fill('#username', `keyboard-${as}`);
    await page.fill('#password', 'wrong');
    const answer = page.waitForResponse((r) => r.request().method() === 'POST');
    await page.press('#password', 'Enter');
    const status = (await answer).status();
    await page.waitForLoadState('load');
    await page.locator('#problem').waitFor();
    const got = await page.evaluate(() => ({ focus: document.activeElement.id, role: document.getElementById('problem').getAttribute('role'), title: document.title, user: document.getElementById('username').value, password: document.getElementById('password').value,
      fields: [...document.querySelectorAll('#username, #password')].map((e) => e.getAttribute('aria-invalid') === 'true' && !!document.getElementById(e.getAttribute('aria-describedby'))), link: document.querySelector('#problem a')?.getAttribute('href') }));
    check(status === 422 && got.focus === 'problem' && got.role === 'alert' && got.title.startsWith('Error: ') && got.user === `keyboard-${as}` && got.password === '' && got.fields.every(Boolean) && got.link === '#username', `${as}: the summary of an error`, `${status} ${JSON.stringify(got)}`);
    await page.goto(`${issuer}/signin/ldap`);
    await page.fill('#username', 'someone');
    await page.fill('#password', 'any');
    await submit(page, formButton);
    check(/not checked/.test(await page.locator('#problem').innerText()) && await page.getAttribute('#username', 'aria-invalid') === null, `${as}: a directory that is down is not the reader's mistake`);
  } catch (e) { check(false, `${as} at ${page.url()}`, e.stack); } finally { await browser.close(); }
}

// Language and theme: a form, without scripts, back to the same page.
{
  const { browser, context, page } = await open({ lang: 'zh-CN', nojs: true });
  const shown = async () => [await page.getAttribute('html', 'lang'), await page.getAttribute('html', 'data-theme')];
  try {
    await page.goto(`${issuer}/signin/local`);
    check(same(await shown(), ['zh-CN', null]), 'the browser speaks Chinese: so do we', await shown());
    check(await page.getAttribute('footer button[name=lang]', 'lang') === 'en' && await page.locator('footer button[name=lang]').innerText() === 'English', 'the other language is offered in itself');
    await submit(page, 'footer button[name=lang]');
    check(/\/signin\/local\?attempt=/.test(page.url()) && same(await shown(), ['en', null]), 'English, on the same page', `${page.url()} ${await shown()}`);
    await submit(page, 'footer button[name=theme]');
    check(/\/signin\/local\?attempt=/.test(page.url()) && same(await shown(), ['en', 'dark']), 'dark, on the same page', `${page.url()} ${await shown()}`);
    check(await page.evaluate(() => getComputedStyle(document.body).backgroundColor) === 'rgb(14, 20, 27)', 'and it is dark');
    await page.fill('#username', 'prefs-person');
    await page.fill('#password', 'wrong');
    await submit(page, formButton);
    await submit(page, 'footer button[name=theme]');
    check(/\/signin\/local\?attempt=/.test(page.url()) && same(await shown(), ['en', 'light']) && await page.locator('#password').count() === 1, 'after a wrong password too', `${page.url()} ${await shown()}`);
    const c = (await context.cookies()).find((x) => x.name === 'gatehouse-prefs');
    check(c && c.value === 'en.light' && c.httpOnly && c.sameSite === 'Lax' && c.path === '/' && c.expires > Date.now() / 1000 + 100 * 86400, 'the cookie', JSON.stringify(c));
    await page.goto(`${issuer}/oauth2/authorize?client_id=nobody`);
    await submit(page, 'footer button[name=lang]');
    check(/authorize\?client_id=nobody/.test(page.url()) && same(await shown(), ['zh-CN', 'light']), 'on an error page', `${page.url()} ${await shown()}`);
    await submit(page, 'footer button[name=theme]');
    check(same(await shown(), ['zh-CN', null]), 'automatic again');
    // What the reader chose is stronger than what an application wishes.
    await page.goto(`${issuer}/oauth2/authorize?response_type=code&client_id=demo-app&redirect_uri=http%3A%2F%2Flocalhost%3A5555%2Fcallback&scope=openid&ui_locales=en&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256`);
    check((await shown())[0] === 'zh-CN', 'ui_locales does not overrule the reader', await shown());
    await context.clearCookies();
    await page.goto(`${issuer}/oauth2/authorize?response_type=code&client_id=demo-app&redirect_uri=http%3A%2F%2Flocalhost%3A5555%2Fcallback&scope=openid&ui_locales=en&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256`);
    check((await shown())[0] === 'en', 'and is followed where there was no choice', await shown());
    await page.locator('a[href^="/signin/local"]').click();
    check((await shown())[0] === 'en', 'on the form as well', await shown());
  } catch (e) { check(false, `preferences at ${page.url()}`, e.stack); } finally { await browser.close(); }
}

// Without a flash, without motion, in forced colours, and light.
{
  const { browser, page } = await open({ lang: 'en', scheme: 'light' });
  try {
    await page.context().addCookies([{ name: 'gatehouse-prefs', value: 'en.dark', url: issuer }]);
    await page.goto(`${issuer}/signin`, { waitUntil: 'commit' });
    check(await page.getAttribute('html', 'data-theme') === 'dark', 'the theme stands in the markup: no flash');
    check(await page.evaluate(() => [...document.querySelectorAll('link[rel=stylesheet]')].every((l) => l.closest('head'))), 'the style blocks the first paint');
    await page.emulateMedia({ reducedMotion: 'reduce' });
    await page.goto(`${issuer}/signin`);
    check(await page.evaluate(() => getComputedStyle(document.querySelector('.btn')).transitionDuration) === '0s' && await page.evaluate(() => document.getAnimations().length) === 0, 'no motion where none is wanted');
    await page.emulateMedia({ forcedColors: 'active' });
    await page.goto(`${issuer}/signin?attempt=AAAAAAAAAAAAAAAAAAAAAAAAAA`);
    check(await page.evaluate(() => getComputedStyle(document.querySelector('.note')).borderTopStyle) === 'solid', 'a note has an edge in forced colours');
  } catch (e) { check(false, `media at ${page.url()}`, e.stack); } finally { await browser.close(); }
}
{
  const { browser, page } = await open({ lang: 'zh-CN' });
  const seen = [];
  page.on('requestfinished', async (q) => { const r = await q.response(); seen.push([q.url(), (await r.body()).length]); });
  await page.goto(`${issuer}/signin`);
  await page.waitForLoadState('networkidle');
  const total = seen.reduce((n, [, b]) => n + b, 0);
  check(total > 0 && total <= 20 * 1024 && seen.length <= 4, `the sign-in page weighs ${total} bytes in ${seen.length} requests`, JSON.stringify(seen));
  await browser.close();
}
process.exit(failed ? 1 : 0);
