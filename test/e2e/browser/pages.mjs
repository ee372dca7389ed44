// pages.mjs ISSUER USER PASSWORD: every page in English and Chinese, light and dark, 1280 and 320 px: no axe violation, no
// sideways scrolling, the right lang, no request to anybody else, nothing on the console. SHOTS=folder keeps pictures.
import fs from 'node:fs';
import path from 'node:path';
import { createRequire } from 'node:module';
import { open, settle } from './browser.mjs';

const axe = fs.readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const [issuer, user, password] = process.argv.slice(2);
const host = new URL(issuer).host;
let failed = 0, pages = 0;
const bad = (where, what) => { failed += 1; console.log(`FAIL ${where}: ${what}`); };

const out = [
  ['signin', '/signin'], ['signin-stale', '/signin?attempt=AAAAAAAAAAAAAAAAAAAAAAAAAA'], ['password', '/signin/local'], ['signed-out', '/signed-out'],
  ['error-client', '/oauth2/authorize?client_id=nobody'], ['error-404', '/nothing-here'], ['error-redirect', '/oauth2/authorize?client_id=demo-app&redirect_uri=https://evil.example/'],
];
const inside = [['home', '/'], ['account', '/account'], ['sessions', '/account/sessions'], ['apps', '/account/apps'], ['claims', '/account/claims'], ['signout', '/signout'],
  ['consent', '/oauth2/authorize?response_type=code&client_id=demo-app&redirect_uri=http%3A%2F%2Flocalhost%3A5555%2Fcallback&scope=openid+profile+email+groups+offline_access+deployments:write&prompt=consent&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256']];

async function look(page, name, lang, scheme, width, notes) {
  const where = `${name} ${lang} ${scheme} ${width}`;
  pages += 1;
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (wide > 0) bad(where, `${wide} px too wide`);
  const got = await page.evaluate(() => document.documentElement.lang);
  if (got !== lang) bad(where, `lang is ${got}`);
  if (await page.locator('h1').count() !== 1 || await page.locator('main').count() !== 1) bad(where, 'not one h1 and one main');
  const small = await page.evaluate(() => [...document.querySelectorAll('button, a.btn, input:not([type=hidden])')].filter((e) => e.offsetParent && e.getBoundingClientRect().height < 44).map((e) => e.outerHTML.slice(0, 80)));
  if (small.length) bad(where, `targets under 44 px: ${small.join(' ')}`);
  await page.evaluate(axe);
  const r = await page.evaluate(() => axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
  for (const v of r.violations) bad(where, `${v.id}: ${v.nodes.map((n) => n.target.join(' ')).join(', ')}`);
  for (const n of notes.splice(0)) if (!/Failed to load resource/.test(n)) bad(where, n);
  if (process.env.SHOTS) await page.screenshot({ path: path.join(process.env.SHOTS, `${name}-${lang}-${scheme}-${width}.png`), fullPage: true });
}

for (const lang of ['en', 'zh-CN']) for (const scheme of ['light', 'dark']) for (const width of [1280, 320]) {
  const { browser, context, page, notes } = await open({ lang, scheme, width });
  page.on('request', (q) => { if (new URL(q.url()).host !== host && !q.url().startsWith('data:')) bad(page.url(), `asks ${q.url()}`); });
  // axe is put in by the test; the page's own policy stays as it is for everything else.
  try {
    for (const [name, p] of out) { await page.goto(issuer + p); await settle(page, 500); await look(page, name, lang, scheme, width, notes); }
    await page.goto(`${issuer}/signin`);
    await page.fill('#username', user); await page.fill('#password', 'wrong');
    await page.locator('form:has(#password) button').first().click();
    await settle(page, 500);
    if (!/^(Error|错误)/.test(await page.title())) bad('password-wrong', `the title is ${await page.title()}`);
    if ((await page.getAttribute('#username', 'aria-invalid')) !== 'true') bad('password-wrong', 'the field is not marked');
    await look(page, 'password-wrong', lang, scheme, width, notes);
    await page.fill('#username', user); await page.fill('#password', password);
    await page.locator('form:has(#password) button').first().click();
    await settle(page, 1000);
    for (const [name, p] of inside) { await page.goto(issuer + p); await settle(page, 500); await look(page, name, lang, scheme, width, notes); }
  } catch (e) { bad(page.url(), e.message); } finally { await browser.close(); }
}
// The check can fail: a page with faults must be found out.
{
  const { browser, page } = await open({});
  await page.setContent('<html><body><img src="x"><input><div style="width:4000px">wide</div></body></html>');
  await page.evaluate(axe);
  const r = await page.evaluate(() => axe.run(document));
  if (r.violations.length < 3) bad('control', 'the faulty page passed');
  await browser.close();
}
console.log(`${failed ? 'FAIL' : 'PASS'} ${pages} pages`);
process.exit(failed ? 1 : 0);
