const out = document.getElementById('out'), state = document.getElementById('state'), line = document.getElementById('line');
document.getElementById('node').textContent = location.hostname.split('.')[0];
const why = {4401: 'your session ended: sign in again, what runs here goes on', 4403: 'the lease ended', 1001: 'the gateway is restarting'};
const ws = new WebSocket((location.protocol === 'https:' ? 'wss://' : 'ws://') + location.host + '/ws');
const show = (text) => { out.textContent += text + '\n'; out.scrollTop = out.scrollHeight; };
ws.onopen = () => { state.textContent = 'connected'; state.className = 'state open'; ws.send('hello from the console'); };
ws.onmessage = (e) => show('< ' + e.data);
ws.onclose = (e) => { state.className = 'state closed'; state.textContent = 'closed (' + e.code + (why[e.code] ? ': ' + why[e.code] : '') + ')'; };
document.getElementById('form').addEventListener('submit', (e) => {
  e.preventDefault();
  if (ws.readyState === 1 && line.value) { show('> ' + line.value); ws.send(line.value); line.value = ''; }
});
