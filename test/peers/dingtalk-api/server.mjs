// The double itself. HOSTILE names, beside those of peerlib/double.mjs:
//   code-expired  every code is refused      limit  every call is one too many      busy  the older half answers -1
//   gone  nobody is in the company any more  moved  everybody is in department 99    tokens-lost  no application token is good any more
//   other-company  the person chose another company     code-name  the code comes back as "code"
import { body, choose, id, json, on, serve } from '../peerlib/double.mjs';

const CLIENT = 'ding-client', SECRET = 'ding-secret', CORP = 'ding0123';
const people = {
  张三: { unionId: 'uZhang', userid: 'zhangsan', depts: [42, 7], org_email: 'zhangsan@corp.example.com', title: '工程师' },
  李四: { unionId: 'uLi', userid: 'lisi', depts: [7], org_email: '', title: '' },
  路人: { unionId: 'uStranger', userid: null, depts: [] },
};
const codes = new Map(), userTokens = new Map(), appTokens = new Map();
let fetched = 0;
const refuse = (res, status, code, message) => json(res, status, { requestid: id(), code, message });
const limited = (res) => on('limit') && (refuse(res, 403, 'Forbidden.AccessDenied.QpsLimitForApi', 'QPS limit'), true);

const page = { page: (req, res, url) => {
  const q = url.searchParams;
  for (const [k, want] of [['response_type', 'code'], ['client_id', CLIENT], ['prompt', 'consent']]) if (q.get(k) !== want) return json(res, 400, { k });
  const scopes = (q.get('scope') ?? '').split(' ');
  if (!scopes.includes('openid') || !q.get('redirect_uri')) return json(res, 400, { scope: q.get('scope') });
  const name = on('code-name') ? 'code' : 'authCode';
  return choose(res, '扫码登录', [...Object.keys(people).map((who) => {
    const code = id();
    codes.set(code, { who, corp: scopes.includes('corpid') ? (on('other-company') ? 'ding9999' : CORP) : undefined, until: Date.now() + 300e3 });
    return [who, { [name]: code, state: q.get('state') }];
  }), ['取消', { error: 'access_denied', state: q.get('state') }]], q.get('redirect_uri'));
} };

// The older half: HTTP 200, whatever it says.
const old = (answer) => async (req, res, url) => {
  const b = await body(req), token = appTokens.get(url.searchParams.get('access_token'));
  const fail = (errcode, errmsg) => json(res, 200, { errcode, errmsg, request_id: id() });
  if (!token || token < Date.now() || on('tokens-lost')) return fail(40014, '不合法的access_token');
  if (on('limit')) return json(res, 200, { errcode: 88, sub_code: '90018', sub_msg: '请求过于频繁', errmsg: 'ding talk error', request_id: id() });
  if (on('busy')) return fail(-1, '系统繁忙');
  const result = answer(b);
  return result ? json(res, 200, { errcode: 0, errmsg: 'ok', result, request_id: id() }) : fail(60121, '找不到该用户');
};
const member = (f) => (on('gone') ? undefined : Object.entries(people).find(([, p]) => p.userid && f(p)));

serve({
  'GET /oauth2/auth': page,
  'POST /v1.0/oauth2/userAccessToken': async (req, res) => {
    if (limited(res)) return;
    const b = await body(req), c = codes.get(b.code);
    codes.delete(b.code);
    if (b.clientId !== CLIENT || b.clientSecret !== SECRET) { refuse(res, 400, 'invalidClientIdOrSecret', '无效的clientId或者clientSecret'); return; }
    if (!c || c.until < Date.now() || b.grantType !== 'authorization_code' || on('code-expired')) { refuse(res, 400, 'invalidParameter.authCode.notFound', '不合法的临时授权码'); return; }
    const accessToken = id(16);
    userTokens.set(accessToken, c.who);
    json(res, 200, { accessToken, refreshToken: id(16), expireIn: 7200, ...(c.corp ? { corpId: c.corp } : {}) });
  },
  'GET /v1.0/contact/users/me': (req, res) => {
    if (limited(res)) return;
    const who = userTokens.get(req.headers['x-acs-dingtalk-access-token']);
    if (!who) { refuse(res, 401, 'InvalidAuthentication', '不合法的access_token'); return; }
    json(res, 200, { nick: who, unionId: people[who].unionId, openId: `o-${people[who].unionId}`, mobile: '13800001234', stateCode: '86', avatarUrl: '' });
  },
  'POST /v1.0/oauth2/accessToken': async (req, res) => {
    if (limited(res)) return;
    const b = await body(req);
    if (b.appKey !== CLIENT || b.appSecret !== SECRET) { refuse(res, 400, 'invalidClientIdOrSecret', '无效的clientId或者clientSecret'); return; }
    fetched += 1;
    const accessToken = id(16);
    appTokens.set(accessToken, Date.now() + 7200e3);
    json(res, 200, { accessToken, expireIn: 7200 });
  },
  'POST /topapi/user/getbyunionid': old((b) => { const m = member((p) => p.unionId === b.unionid); return m && { contact_type: 0, userid: m[1].userid }; }),
  'POST /topapi/v2/user/get': old((b) => {
    const m = member((p) => p.userid === b.userid);
    return m && { userid: m[1].userid, unionid: m[1].unionId, name: m[0], avatar: '', mobile: '13800001234', state_code: '86', email: '', org_email: m[1].org_email, title: m[1].title, dept_id_list: on('moved') ? [99] : m[1].depts, active: true, admin: false, boss: false };
  }),
}, () => ({ fetched }));
