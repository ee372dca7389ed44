// images.mjs ISSUER FOLDER readme|china|directory|enterprise: signin.png and portal.png in English, signin-zh.png and refused-zh.png in
// Chinese, or directory.png, what somebody with an expired password reads, or the enterprise's: signin-enterprise.png, refused-google.png,
// refused-saml.png and linked.png; light, 1280 wide.
import path from 'node:path';
import { open } from './browser.mjs';

const [issuer, folder, what] = process.argv.slice(2);
process.env.HEIGHT = '640';
const { browser, page } = await open({ lang: what === 'china' ? 'zh-CN' : 'en', scheme: 'light', width: 1280 });
const shot = (name) => page.screenshot({ path: path.join(folder, name), animations: 'disabled', caret: 'hide' });
async function readme() {
  await page.goto(`${issuer}/signin`);
  await page.evaluate(() => document.activeElement.blur());
  await shot('signin.png');
  await page.fill('#username', 'demo');
  await page.fill('#password', 'demo');
  await page.locator('form:has(#password) button:not([type=button])').click();
  await page.waitForURL(`${issuer}/`);
  await page.setViewportSize({ width: 1280, height: 480 });
  await shot('portal.png');
}
async function china() {
  await page.setViewportSize({ width: 1280, height: 820 });
  await page.goto(`${issuer}/signin`);
  await page.evaluate(() => document.activeElement.blur());
  await shot('signin-zh.png');
  await page.locator('a[href*="/signin/wecom"]').click();
  await page.locator('a[id="路人"]').click();
  await page.waitForURL(`${issuer}/**`);
  await page.setViewportSize({ width: 1280, height: 560 });
  await shot('refused-zh.png');
}
async function directory() {
  await page.goto(`${issuer}/signin/ldap`);
  await page.fill('#username', 'expired');
  await page.fill('#password', 'expired-secret');
  await page.locator('form:has(#password) button:not([type=button])').click();
  await page.getByText('Your password has expired').waitFor();
  await page.evaluate(() => document.activeElement.blur());
  await shot('directory.png');
}
async function enterprise() {
  await page.setViewportSize({ width: 1280, height: 820 });
  await page.goto(`${issuer}/signin`);
  await page.evaluate(() => document.activeElement.blur());
  await shot('signin-enterprise.png');
  const come = async (connector, user) => {
    await page.goto(`${issuer}/account/links`);
    await page.locator(`a[href*="/signin/${connector}"]`).first().click();
    await page.fill('input[name=login]', user);
    await page.fill('input[name=password]', `${user}-pw`);
    for (let i = 0; i < 3 && !page.url().startsWith(`${issuer}/`); i += 1) { // Google's also asks for consent
      await page.locator('button:not([name=cancel])').first().click();
      await page.waitForLoadState('networkidle');
    }
  };
  await come('google', 'personal');
  await page.setViewportSize({ width: 1280, height: 560 });
  await shot('refused-google.png');
  await page.evaluate((to) => {
    const f = Object.assign(document.createElement('form'), { method: 'post', action: to });
    f.append(Object.assign(document.createElement('input'), { name: 'SAMLResponse', value: btoa('<a/>') }));
    document.body.append(f);
    f.submit();
  }, `${issuer}/auth/acme/callback`);
  await page.locator('#ref').waitFor();
  await shot('refused-saml.png');
  await page.setViewportSize({ width: 1280, height: 820 });
  await come('gitlab', 'alice');
  await page.waitForURL(`${issuer}/account/links`);
  await shot('linked.png');
}
await { enterprise, readme, china, directory }[what]();
await browser.close();
