// The double itself. HOSTILE names, beside those of peerlib/double.mjs:
//   code-expired  every code is refused     limit  99991400     gone  nobody is in the company any more     frozen  everybody is frozen
//   moved  everybody is in department od-99     tokens-lost  no application token is good any more
//   no-book  the application may not read the address book (99991672)
import { body, challenge, choose, id, json, on, serve } from '../peerlib/double.mjs';

const APP = 'cli_0123', SECRET = 'feishu-secret', TENANT = 'tenant-1';
const people = {
  张三: { union_id: 'on_zhang', user_id: 'zhangsan', tenant_key: TENANT, departments: ['od-42', 'od-7'], enterprise_email: 'zhangsan@corp.example.com' },
  李四: { union_id: 'on_li', user_id: 'lisi', tenant_key: TENANT, departments: ['od-7'] },
  王五: { union_id: 'on_wang', user_id: 'wangwu', tenant_key: TENANT, departments: ['od-7'], frozen: true },
  赵六: { union_id: 'on_zhao', user_id: 'zhaoliu', tenant_key: 'tenant-2', departments: [] },
  钱七: { union_id: 'on_qian', user_id: 'qianqi', tenant_key: TENANT, departments: [], closed: true },
};
const codes = new Map(), userTokens = new Map(), appTokens = new Map();
let fetched = 0;
const answer = (res, code, msg, data, status = code ? 400 : 200) => json(res, status, { code, msg, ...(data ? { data } : {}) });
const bearer = (req) => /^Bearer (.+)$/.exec(req.headers.authorization ?? '')?.[1];
const limited = (res) => on('limit') && (answer(res, 99991400, 'request trigger frequency limit'), true);

// The endpoint of RFC 6749: token and code stand side by side.
async function token(req, res, form) {
  if (limited(res)) return undefined;
  if (form !== /x-www-form-urlencoded/.test(req.headers['content-type'] ?? '')) return json(res, 400, { code: 20001, error: 'invalid_request', error_description: 'The content type is not supported.' });
  const b = await body(req), c = codes.get(b.code);
  codes.delete(b.code);
  const refuse = (code, error, error_description) => json(res, 400, { code, error, error_description });
  if (b.client_id !== APP || b.client_secret !== SECRET) return refuse(20002, 'invalid_client', 'The client secret is invalid.');
  if (b.grant_type !== 'authorization_code') return refuse(20036, 'unsupported_grant_type', 'The specified grant_type is not supported.');
  if (!c || c.until < Date.now() || on('code-expired')) return refuse(20003, 'invalid_grant', 'The authorization code is invalid.');
  if (b.redirect_uri !== c.redirect) return refuse(20071, 'invalid_grant', 'The redirect uri does not match.');
  if (c.challenge ? challenge(b.code_verifier) !== c.challenge : b.code_verifier) return refuse(20049, 'invalid_grant', 'PKCE code challenge failed.');
  if (people[c.who].closed) return refuse(20010, 'invalid_grant', 'The user does not have permission to use this app.');
  const access_token = `u-${id(20)}`;
  userTokens.set(access_token, c.who);
  return json(res, 200, { code: 0, access_token, expires_in: 7200, token_type: 'Bearer', scope: 'auth:user.id:read' });
}

serve({
  'GET /open-apis/authen/v1/authorize': { page: (req, res, url) => {
    const q = url.searchParams;
    if (q.get('client_id') !== APP || q.get('response_type') !== 'code' || !q.get('redirect_uri')) return json(res, 400, { code: 20029 });
    if (q.has('code_challenge') && q.get('code_challenge_method') !== 'S256') return json(res, 400, { code: 20001 });
    return choose(res, '飞书登录', [...Object.keys(people).map((who) => {
      const code = id(16);
      codes.set(code, { who, redirect: q.get('redirect_uri'), challenge: q.get('code_challenge'), until: Date.now() + 300e3 });
      return [who, { code, state: q.get('state') }];
    }), ['取消', { error: 'access_denied', state: q.get('state') }]], q.get('redirect_uri'));
  } },
  'POST /oauth/v3/token': (req, res) => token(req, res, true),
  'POST /open-apis/authen/v2/oauth/token': (req, res) => token(req, res, false),
  'GET /open-apis/authen/v1/user_info': (req, res) => {
    if (limited(res)) return undefined;
    const who = userTokens.get(bearer(req));
    if (!who) return answer(res, 20005, 'The user access token passed is invalid.');
    const p = people[who];
    return answer(res, 0, 'success', { name: who, en_name: '', avatar_url: '', open_id: `ou_${p.union_id}`, union_id: p.union_id, user_id: p.user_id, tenant_key: p.tenant_key, email: '', enterprise_email: p.enterprise_email ?? '', mobile: '+8613800001234' });
  },
  'POST /open-apis/auth/v3/tenant_access_token/internal': async (req, res) => {
    if (limited(res)) return undefined;
    const b = await body(req);
    if (b.app_id !== APP || b.app_secret !== SECRET) return json(res, 200, { code: 10014, msg: 'app secret invalid' });
    fetched += 1;
    const tenant_access_token = `t-${id(20)}`;
    appTokens.set(tenant_access_token, Date.now() + 7200e3);
    return json(res, 200, { code: 0, msg: 'ok', tenant_access_token, expire: 7200 });
  },
  'GET /open-apis/contact/v3/users/': (req, res, url) => {
    if (limited(res)) return undefined;
    const until = appTokens.get(bearer(req));
    if (!until || until < Date.now() || on('tokens-lost')) return answer(res, 99991663, 'Invalid access token for authorization. Please make a test attempt with the correct token.');
    if (on('no-book')) return answer(res, 99991672, 'Access denied. One of the following scopes is required: [contact:user.base:readonly]');
    const union = decodeURIComponent(url.pathname.split('/').pop());
    const m = Object.entries(people).find(([, p]) => p.union_id === union && p.tenant_key === TENANT);
    if (!m || on('gone') || url.searchParams.get('user_id_type') !== 'union_id') return answer(res, 41012, 'user id invalid error');
    const [name, p] = m;
    return answer(res, 0, 'success', { user: { union_id: p.union_id, open_id: `ou_${p.union_id}`, user_id: p.user_id, name, enterprise_email: p.enterprise_email ?? '', department_ids: on('moved') ? ['od-99'] : p.departments, mobile: '+8613800001234', status: { is_frozen: !!p.frozen || on('frozen'), is_resigned: false, is_activated: true, is_exited: false, is_unjoin: false } } });
  },
}, () => ({ fetched }));
