// images.mjs ISSUER FOLDER: the pictures of the README: signin.png and portal.png, English, light, 1280 wide.
import path from 'node:path';
import { open } from './browser.mjs';

const [issuer, folder] = process.argv.slice(2);
process.env.HEIGHT = '640';
const { browser, page } = await open({ lang: 'en', scheme: 'light', width: 1280 });
const shot = (name) => page.screenshot({ path: path.join(folder, name), animations: 'disabled', caret: 'hide' });
await page.goto(`${issuer}/signin`);
await page.evaluate(() => document.activeElement.blur());
await shot('signin.png');
await page.fill('#username', 'demo');
await page.fill('#password', 'demo');
await page.locator('form:has(#password) button:not([type=button])').click();
await page.waitForURL(`${issuer}/`);
await page.setViewportSize({ width: 1280, height: 480 });
await shot('portal.png');
await browser.close();
