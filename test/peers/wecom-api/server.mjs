// The double itself. HOSTILE names, beside those of peerlib/double.mjs:
//   code-expired  every code is refused     limit  45009      busy  -1     ip  60020: our address is not trusted
//   tokens-lost  no application token is good any more        no-book  the address book may not be read (48002)
//   out-of-range  the member is outside what the application may see (60011)      old-spelling  UserId, OpenId
import { body, choose, html, id, json, on, serve } from '../peerlib/double.mjs';

const CORP = 'ww0123', AGENT = '1000002', SECRET = 'wecom-secret';
const people = {
  张三: { userid: 'ZhangSan', status: 1, department: [42, 7], email: 'zs@example.com', biz_mail: 'zhangsan@corp.example.com' },
  李四: { userid: 'lisi', status: 1, department: [7] },
  王五: { userid: 'wangwu', status: 2, department: [7] },
  路人: { openid: 'oStranger' },
};
const codes = new Map(), tokens = new Map(), tickets = new Map();
let fetched = 0;
const answer = (res, errcode, errmsg, more = {}) => json(res, 200, { errcode, errmsg, ...more });
const hint = (req) => `hint: [${Date.now()}], from ip: ${req.socket.remoteAddress}, more info at https://open.work.weixin.qq.com/devtool/query?e=1`;

function offer(res, title, url, scope) {
  const q = url.searchParams, state = q.get('state');
  if (q.get('appid') !== CORP || q.get('agentid') !== AGENT) return html(res, 200, '参数错误');
  if (!/^[a-zA-Z0-9]{0,128}$/.test(state ?? '')) return html(res, 200, 'state 参数错误');
  return choose(res, title, Object.keys(people).map((who) => {
    const code = id(16);
    codes.set(code, { who, scope, until: Date.now() + 300e3 });
    return [who, { code, state }];
  }), q.get('redirect_uri'));
}

// Inside the app the whole link is matched against a pattern: parameters in their order, none more.
const link = /^\?appid=[^&]+&redirect_uri=[^&]+&response_type=code&scope=(snsapi_base|snsapi_privateinfo)&state=[^&]*&agentid=\d+$/;

const call = (f) => async (req, res, url) => {
  if (on('limit')) return answer(res, 45009, `reach max api daily quota limit, ${hint(req)}`);
  if (on('busy')) return answer(res, -1, 'system busy');
  const until = tokens.get(url.searchParams.get('access_token'));
  if (!until || on('tokens-lost')) return answer(res, 40014, `invalid access_token, ${hint(req)}`);
  if (until < Date.now()) return answer(res, 42001, `access_token expired, ${hint(req)}`);
  if (on('ip')) return answer(res, 60020, `not allow to access from your ip, ${hint(req)}`);
  return f(req, res, url.searchParams);
};

serve({
  'GET /wwlogin/sso/login': { page: (req, res, url) => (url.searchParams.get('login_type') === 'CorpApp' ? offer(res, '企业微信扫码登录', url, 'qr') : html(res, 200, '参数错误')) },
  'GET /connect/oauth2/authorize': { page: (req, res, url) => {
    if (!/wxwork\//.test(req.headers['user-agent'] ?? '')) return html(res, 200, '请在企业微信客户端打开链接');
    const m = link.exec(url.search);
    return m ? offer(res, '企业微信', url, m[1]) : html(res, 200, '链接参数错误');
  } },
  'GET /cgi-bin/gettoken': (req, res, url) => {
    const q = url.searchParams;
    if (on('limit')) return answer(res, 45009, `api freq out of limit, ${hint(req)}`);
    if (q.get('corpid') !== CORP) return answer(res, 40013, `invalid corpid, ${hint(req)}`);
    if (q.get('corpsecret') !== SECRET) return answer(res, 40001, `invalid credential, ${hint(req)}`);
    fetched += 1;
    const access_token = id(32);
    tokens.set(access_token, Date.now() + 7200e3);
    return answer(res, 0, 'ok', { access_token, expires_in: 7200 });
  },
  'GET /cgi-bin/auth/getuserinfo': call((req, res, q) => {
    const c = codes.get(q.get('code'));
    codes.delete(q.get('code'));
    if (!c || c.until < Date.now() || on('code-expired')) return answer(res, 40029, `invalid code, ${hint(req)}`);
    const p = people[c.who];
    if (p.openid) return answer(res, 0, 'ok', on('old-spelling') ? { OpenId: p.openid, DeviceId: '' } : { openid: p.openid });
    const ticket = c.scope === 'snsapi_privateinfo' ? { user_ticket: id(16), expires_in: 1800 } : {};
    if (ticket.user_ticket) tickets.set(ticket.user_ticket, c.who);
    return answer(res, 0, 'ok', on('old-spelling') ? { UserId: p.userid, DeviceId: '' } : { userid: p.userid, ...ticket });
  }),
  'GET /cgi-bin/user/get': call((req, res, q) => {
    if (on('no-book')) return answer(res, 48002, `api forbidden, ${hint(req)}`);
    if (on('out-of-range')) return answer(res, 60011, `no privilege to access/modify contact/party/agent, ${hint(req)}`);
    const m = Object.entries(people).find(([, p]) => p.userid?.toLowerCase() === (q.get('userid') ?? '').toLowerCase());
    if (!m) return answer(res, 60111, `userid not found, ${hint(req)}`);
    const [name, p] = m;
    return answer(res, 0, 'ok', { userid: p.userid, name, department: p.department, main_department: p.department[0], position: '', status: p.status, isleader: 0, enable: p.status === 2 ? 0 : 1 });
  }),
  'POST /cgi-bin/auth/getuserdetail': call(async (req, res) => {
    const who = tickets.get((await body(req)).user_ticket);
    if (!who) return answer(res, 40097, `invalid args, ${hint(req)}`);
    const p = people[who];
    return answer(res, 0, 'ok', { userid: p.userid, gender: '1', avatar: '', qr_code: '', mobile: '13800001234', email: p.email ?? '', biz_mail: p.biz_mail ?? '', address: '' });
  }),
}, () => ({ fetched }));
