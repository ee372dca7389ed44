-- http-request lua.gatehouse URL: asks Gatehouse about a request by HAProxy's own HTTP client.
--   200         its identity headers replace the client's, and txn.gatehouse is "pass"
--   3xx, 4xx    its answer goes to the client as it is: a redirect to sign-in, 401, 403
--   else        nothing is set, and the deny rule behind it answers 503
local IDENTITY = { "x-gatehouse-user", "x-gatehouse-email", "x-gatehouse-name", "x-gatehouse-groups", "x-gatehouse-groups-truncated", "authorization" }
-- Nothing of a WebSocket's handshake, and no length of a body that is not sent.
local PASS = { "host", "cookie", "authorization", "accept", "accept-language", "origin", "user-agent", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "sec-fetch-user",
  "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-method", "x-forwarded-uri" }
local HOP = { ["connection"] = true, ["keep-alive"] = true, ["transfer-encoding"] = true, ["content-length"] = true, ["upgrade"] = true }
local TIMEOUT_MS = 2000

-- HAProxy counts the values of a header from 0 in requests and from 1 in answers.
local function values(headers, name)
  local list, out = headers[name] or {}, {}
  if list[0] then out[1] = list[0] end
  for _, v in ipairs(list) do out[#out + 1] = v end
  return out
end

core.register_action("gatehouse", { "http-req" }, function(txn, url)
  local client, ask = txn.http:req_get_headers(), {}
  for _, name in ipairs(PASS) do
    local list = values(client, name)
    if #list > 0 then ask[name] = list end
  end
  local answer = core.httpclient():get { url = url, headers = ask, timeout = TIMEOUT_MS }
  local status = answer and tonumber(answer.status) or 0
  if status == 200 then
    for _, name in ipairs(IDENTITY) do
      txn.http:req_del_header(name)
      for _, v in ipairs(values(answer.headers, name)) do txn.http:req_add_header(name, v) end
    end
    txn:set_var("txn.gatehouse", "pass")
  elseif status >= 300 and status < 500 then
    local reply = txn:reply { status = status }
    for name in pairs(answer.headers) do
      if not HOP[name] then
        for _, v in ipairs(values(answer.headers, name)) do reply:add_header(name, v) end
      end
    end
    reply:set_body(answer.body or "")
    txn:done(reply)
  else
    txn:Warning("gatehouse: " .. status .. " from " .. url)
  end
end, 1)
