// consoles.mjs ISSUER HOST USER PASSWORD: real consoles behind the gateway, at https://<lease>.HOST. A keystroke typed in the
// page reaches the shell (which writes a file that is looked for on the disk), then the operator takes the lease away, and
// the page's sockets are closed with 4403. Env: ADMIN (URL), TOKEN (its bearer token), MARKS (a folder for the files).
import fs from 'node:fs';
import path from 'node:path';
import { open, settle } from './browser.mjs';

const [issuer, host, user, password] = process.argv.slice(2);
const { ADMIN, TOKEN, MARKS } = process.env;
const { browser, context, page } = await open({ lang: 'en' });
let failed = 0;
const check = (ok, name, detail = '') => { console.log(`${ok ? 'PASS' : 'FAIL'} ${name}${detail ? `: ${detail}` : ''}`); if (!ok) failed += 1; };
const sleep = (ms) => new Promise((done) => { setTimeout(done, ms); });

// Each page notes how its sockets end.
await context.addInitScript(() => {
  const Native = window.WebSocket;
  window.sockets = [];
  // A proxy, not a class of its own: noVNC looks at the prototype.
  window.WebSocket = new Proxy(Native, {
    construct(target, args) {
      const socket = new target(...args);
      const seen = { url: socket.url, code: 0, at: 0 };
      window.sockets.push(seen);
      socket.addEventListener('close', (e) => { seen.code = e.code; seen.at = Date.now(); });
      return socket;
    },
  });
});

async function written(name, want, ms = 20000) {
  const file = path.join(MARKS, name);
  for (const end = Date.now() + ms; Date.now() < end; await sleep(50)) {
    if (fs.existsSync(file) && fs.readFileSync(file, 'utf8').trim() === want) return true;
  }
  return false;
}

// A shell computes the answer, so that an echoed keystroke is not taken for it.
const line = (name) => `echo $((6*7)) > ${path.join(MARKS, name)}`;

async function inShell(name) {
  await page.keyboard.type(line(name), { delay: 5 });
  await page.keyboard.press('Enter');
  check(await written(name, '42'), `${name}: a keystroke in the page reaches the shell`);
}

async function revoke(lease) {
  const before = await page.evaluate(() => window.sockets.filter((s) => s.code === 0).length);
  check(before > 0, `${lease}: ${before} open WebSocket(s)`);
  const began = Date.now();
  const r = await fetch(`${ADMIN}/api/v1/consoles/${lease}`, { method: 'DELETE', headers: { authorization: `Bearer ${TOKEN}` } });
  check(r.ok, `${lease}: the lease is taken away`, String(r.status));
  let cut = [];
  for (const end = Date.now() + 5000; Date.now() < end && cut.length < before; await sleep(20)) {
    cut = await page.evaluate((since) => window.sockets.filter((s) => s.at >= since), began);
  }
  const worst = Math.max(...cut.map((s) => s.at - began));
  check(cut.length >= before && cut.slice(0, before).every((s) => s.code === 4403) && worst <= 1000, `${lease}: cut with 4403 within a second`, `${worst} ms, ${cut.map((s) => s.code).join(' ')}`);
  const again = await page.goto(`https://${lease}.${host}/`);
  check(again.status() === 403, `${lease}: opened again it is refused`, String(again.status()));
}

async function enter(lease, where) {
  await page.goto(`https://${lease}.${host}${where}`);
  await settle(page, 2000);
  if (await page.locator('#password').count()) {
    await page.fill('#username', user);
    await page.fill('#password', password);
    await page.locator('form:has(#password) button:not([type=button])').click();
    await page.waitForURL((u) => u.host === `${lease}.${host}`);
    await settle(page, 3000);
  }
  check(new URL(page.url()).host === `${lease}.${host}`, `${lease}: opens`, page.url());
}

try {
  await enter('wetty', '/');
  await page.locator('.xterm').first().waitFor();
  await page.locator('.xterm').first().click();
  await sleep(1000); // the shell's prompt
  await inShell('wetty');
  await revoke('wetty');

  await enter('jupyter', '/lab?token=peer-token');
  await page.locator('.jp-LauncherCard[data-category="Other"]:has-text("Terminal")').first().click();
  await page.locator('.jp-Terminal .xterm').waitFor();
  await page.locator('.jp-Terminal').click();
  await sleep(1500);
  await inShell('jupyter');
  await page.locator('.jp-Dialog button:has-text("No")').click({ timeout: 1000 }).catch(() => {});
  await page.keyboard.press('Control+Shift+L'); // a launcher again
  await page.locator('.jp-LauncherCard[data-category="Notebook"]').first().click();
  await page.locator('.jp-Notebook .cm-content').first().waitFor();
  await page.locator('.jp-NotebookPanel-toolbar :text("Idle"), .jp-Notebook-ExecutionIndicator[data-status="idle"]').first().waitFor({ timeout: 30000 });
  await page.locator('.jp-Notebook .cm-content').first().click();
  await page.keyboard.type(`open("${path.join(MARKS, 'kernel')}", "w").write(str(6 * 7))`);
  await page.keyboard.press('Shift+Enter');
  let ran = await written('kernel', '42', 15000);
  if (!ran) { // the kernel was not ready to listen yet
    await page.locator('.jp-Notebook .cm-content').first().click();
    await page.keyboard.press('Shift+Enter');
    ran = await written('kernel', '42', 30000);
  }
  check(ran, 'jupyter: a cell runs in the kernel');
  await revoke('jupyter');

  await enter('novnc', '/vnc.html?autoconnect=1&resize=off');
  await page.locator('html.noVNC_connected').waitFor();
  const canvas = await page.locator('#noVNC_container canvas').boundingBox();
  await page.mouse.move(canvas.x + 150, canvas.y + 150); // without a window manager the pointer gives the focus
  await page.mouse.click(canvas.x + 150, canvas.y + 150);
  await sleep(500);
  await inShell('novnc');
  await revoke('novnc');
} catch (e) {
  await page.screenshot({ path: path.join(process.env.SHOTS || MARKS, 'failed.png') }).catch(() => {});
  check(false, 'the consoles', `${e.message}\n  at ${page.url()}`);
} finally { await browser.close(); }
process.exit(failed ? 1 : 0);
