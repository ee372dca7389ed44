// china.mjs ISSUER USER-AGENT CONNECTOR...: signs in by each connector as a person on the page in Chinese would, once as
// somebody who may and once as somebody who may not, and turns back where the vendor's page lets one. Prints PASS or FAIL.
import { open, settle } from './browser.mjs';

const [issuer, agent, ...ids] = process.argv.slice(2);
let failed = 0;
const check = (ok, name, detail = '') => { console.log(`${ok ? 'PASS' : 'FAIL'} ${name}${detail ? `: ${detail}` : ''}`); if (!ok) failed += 1; };
const names = { dingtalk: '钉钉', feishu: '飞书', wecom: '企业微信' };
const no = { dingtalk: '路人', feishu: '赵六', wecom: '路人' };
const { browser, page, context } = await open({ lang: 'zh-CN' });
if (agent) await context.route(`${issuer}/**`, (route, req) => route.continue({ headers: { ...req.headers(), 'user-agent': agent } }));
if (agent) await context.setExtraHTTPHeaders({ 'user-agent': agent });

async function leave(id) {
  await context.clearCookies();
  await page.goto(`${issuer}/`);
  const button = page.locator(`a[href*="/signin/${id}"]`).first();
  check((await button.textContent()).includes(names[id]) && await button.locator('svg').count() === 1, `${id}: the button has its name and a drawing`);
  await button.click();
  await settle(page, 2000);
  check(new URL(page.url()).origin !== issuer, `${id}: leaves for the vendor`, page.url().slice(0, 80));
}
try {
  for (const id of ids) {
    await leave(id);
    if (agent) check(/\/connect\/oauth2\/authorize\?.*#wechat_redirect$/.test(page.url()), `${id}: the address inside the app`);
    await page.locator('a[id="张三"]').click();
    await settle(page, 2000);
    check(page.url() === `${issuer}/` && (await page.content()).includes('张三'), `${id}: is in, by name`, page.url());
    await leave(id);
    await page.locator(`a[id="${no[id]}"]`).click();
    await settle(page, 2000);
    check((await page.locator('h1').textContent()).includes('您不在允许登录的组织中'), `${id}: who is no member is told so`, await page.locator('h1').textContent());
    check(await page.locator('main a').count() > 0, `${id}: and has a way on`);
    if (id !== 'wecom') {
      await leave(id);
      await page.locator('a[id="取消"]').click();
      await settle(page, 2000);
      check(await page.locator('[role=status]').count() === 1 && await page.locator(`a[href*="/signin/${id}"]`).count() > 0, `${id}: turning back ends on the sign-in page`);
    }
  }
} finally { await browser.close(); }
process.exit(failed ? 1 : 0);
