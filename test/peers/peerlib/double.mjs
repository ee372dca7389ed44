// What the doubles of web APIs share: requests, answers, misbehaviour on demand and a record of what was asked.
//   HOSTILE=a,b at the start, POST /control?hostile=a,b later; GET /control tells hostile, requests and whatever state() adds.
// Known to every double: down (503), slow (20 s), huge (4 MiB), garbage (a page with 200); a double names its own beside these.
import crypto from 'node:crypto';
import http from 'node:http';

const list = (v) => (v ?? '').split(',').map((s) => s.trim()).filter(Boolean);
let active = new Set(list(process.env.HOSTILE));
const seen = [];

export const on = (name) => active.has(name);
export const id = (n = 12) => crypto.randomBytes(n).toString('hex');
export const challenge = (verifier) => crypto.createHash('sha256').update(verifier ?? '').digest('base64url');
export const esc = (s) => String(s ?? '').replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
export const html = (res, status, text) => res.writeHead(status, { 'content-type': 'text/html; charset=utf-8' }).end(`<!DOCTYPE html><html><body>${text}</body></html>`);
export const json = (res, status, value) => res.writeHead(status, { 'content-type': 'application/json;charset=utf-8' }).end(JSON.stringify(value));
export async function body(req) {
  let s = '';
  for await (const d of req) s += d;
  if (/json/.test(req.headers['content-type'] ?? '')) { try { return JSON.parse(s); } catch { return {}; } }
  return Object.fromEntries(new URLSearchParams(s));
}

// The page where a person chooses who they are: on a desk a QR code would stand here. Each button is a link back.
export function choose(res, title, people, back) {
  const link = (text, params) => {
    const to = new URL(back);
    for (const [k, v] of Object.entries(params)) if (v != null) to.searchParams.set(k, v);
    return `<p><a id="${esc(text)}" href="${esc(to.href)}">${esc(text)}</a></p>`;
  };
  html(res, 200, `<h1>${esc(title)}</h1>${people.map(([who, params]) => link(who, params)).join('')}`);
}

// routes: {'GET /path': async (req, res, url) => …}; a path that ends in / takes what lies below it.
export function serve(routes, state = () => ({})) {
  const { PORT } = process.env;
  const base = `http://127.0.0.1:${PORT}`;
  http.createServer(async (req, res) => {
    const url = new URL(req.url, base);
    try {
      if (url.pathname === '/control') {
        if (req.method === 'POST') active = new Set(list(url.searchParams.get('hostile')));
        json(res, 200, { hostile: [...active], requests: seen, ...state() });
        return;
      }
      seen.push({ method: req.method, path: url.pathname, query: url.search, ua: req.headers['user-agent'], type: req.headers['content-type'] });
      if (seen.length > 500) seen.shift();
      const key = Object.keys(routes).find((k) => { const [m, p] = k.split(' '); return m === req.method && (p === url.pathname || (p.endsWith('/') && url.pathname.startsWith(p))); });
      const page = key && routes[key].page;
      if (!page) { // the page is the browser's business; what follows is ours
        if (on('slow')) await new Promise((ok) => { setTimeout(ok, 20000).unref(); });
        if (on('down')) { html(res, 503, 'upstream connect error'); return; }
        if (on('huge')) { json(res, 200, { errcode: 0, code: 0, padding: 'a'.repeat(4 << 20) }); return; }
        if (on('garbage')) { html(res, 200, 'a proxy wants you to sign in'); return; }
      }
      if (!key) { res.writeHead(404, { 'content-type': 'text/plain' }).end('404 page not found'); return; }
      await (routes[key].page ?? routes[key])(req, res, url);
    } catch (e) { console.log(e); if (!res.headersSent) json(res, 500, {}); }
  }).listen(Number(PORT), '127.0.0.1', () => console.log(`listening: ${base}`));
  process.on('SIGTERM', () => process.exit(0));
}
