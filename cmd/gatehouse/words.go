package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/cmd/gatehouse/internal/userclient"
)

// words is the language of what the user's commands say to people: Chinese where
// LC_ALL, LC_MESSAGES or LANG, the first that is set, says so, else English.
type words string

func language(getenv func(string) string) words {
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if v := getenv(name); v != "" {
			if strings.HasPrefix(strings.ToLower(v), "zh") {
				return "zh"
			}
			return "en"
		}
	}
	return "en"
}

// spoken are the texts, English and Chinese.
var spoken = map[string][2]string{
	"open":         {"  Open   %s\n", "  打开   %s\n"},
	"code":         {"  Code   %s          (expires in %d min)\n", "  代码   %s          （%d 分钟内有效）\n"},
	"opening":      {"  Opening your browser…\n", "  正在打开浏览器…\n"},
	"not opened":   {"  No browser could be opened here; open the address yourself.\n", "  无法在此打开浏览器，请自行打开上面的地址。\n"},
	"by code":      {"  No browser could be opened here; signing in by code instead.\n", "  无法在此打开浏览器，改用代码登录。\n"},
	"waiting":      {"  Waiting… Ctrl-C to stop\n", "  等待中… 按 Ctrl-C 停止\n"},
	"signed in":    {"✓ Signed in as %s\n", "✓ 已登录：%s\n"},
	"kept":         {"  Token kept in: %s", "  令牌保存于：%s"},
	"until":        {"    Until: %s", "    有效期：%s"},
	"keyring":      {"the keyring was not used: %v", "未使用钥匙串：%v"},
	"token wins":   {"GATEHOUSE_TOKEN is set: commands use it, not this sign-in", "已设置 GATEHOUSE_TOKEN：各命令将使用它，而不是此次登录"},
	"signed out":   {"Signed out of %s (%s)\n", "已退出 %s（%s）\n"},
	"user":         {"User", "用户"},
	"issuer":       {"Issuer", "签发方"},
	"method":       {"Method", "登录方式"},
	"scopes":       {"Scopes", "权限范围"},
	"token":        {"Token", "令牌"},
	"session":      {"Session", "会话"},
	"kept in":      {"Kept in", "保存于"},
	"profile":      {"Profile", "配置"},
	"good until":   {"good until %s", "有效至 %s"},
	"life":         {"%s if unused, %s at most", "若不使用至 %s，最长至 %s"},
	"at most":      {"%s at most", "最长至 %s"},
	"unchecked":    {"the server could not be asked, this is from memory: %v", "无法询问服务器，以下为本地记录：%v"},
	"page title":   {"Gatehouse", "Gatehouse"},
	"page done":    {"Signed in. You can close this page and go back to your terminal.", "登录成功。您可以关闭此页面，返回终端。"},
	"page failed":  {"The sign-in did not succeed. Close this page; your terminal says why.", "登录未成功。请关闭此页面，原因见终端。"},
	"renewing":     {"the token cannot be renewed now, trying on: %v", "暂时无法更新令牌，将继续尝试：%v"},
	"renewed":      {"the token is fresh again", "令牌已重新更新"},
	"no issuer":    {"which server? Run: gatehouse login --issuer https://…, or set GATEHOUSE_ISSUER", "未指定服务器。请运行：gatehouse login --issuer https://…，或设置 GATEHOUSE_ISSUER"},
	"other issuer": {"the profile %s is of %s; choose another --profile, or sign out of it first: gatehouse logout --profile %s", "配置 %s 属于 %s；请用 --profile 另选名称，或先退出：gatehouse logout --profile %s"},
	"taken":        {"GATEHOUSE_TOKEN is set and is printed as it is; unset it to get a token for another audience", "已设置 GATEHOUSE_TOKEN，只会原样输出；如需其他受众的令牌，请先取消该变量"},
	"denied":       {"it was not allowed", "未获允许"},
	"expired":      {"the time is over and nobody has signed in; run gatehouse login again", "已超时，无人登录；请重新运行 gatehouse login"},
	"cancelled":    {"cancelled", "已取消"},
	"nobody":       {"not signed in; run: gatehouse login", "尚未登录；请运行：gatehouse login"},
	"ended":        {"not signed in (%s); run: gatehouse login", "尚未登录（%s）；请运行：gatehouse login"},
	"several":      {"which sign-in? %s; say it by --profile or GATEHOUSE_PROFILE", "有多个登录：%s；请用 --profile 或 GATEHOUSE_PROFILE 指定"},
	"unreachable":  {"%v; try again later", "无法连接服务器：%v；请稍后再试"},
	"hostile":      {"stopped for safety: %v", "出于安全考虑已停止：%v"},
	"not revoked":  {"%v; end the session on the server's page of sessions (/account/sessions)", "已在本机退出，但未能通知服务器：%v；请在服务器的会话页面（/account/sessions）结束该会话"},
}

// say formats a text.
func (w words) say(key string, args ...any) string {
	t := spoken[key][0]
	if w == "zh" {
		t = spoken[key][1]
	}
	if len(args) == 0 {
		return t
	}
	return fmt.Sprintf(t, args...)
}

// day writes a date as people do.
func (w words) day(t time.Time) string {
	if w == "zh" {
		return t.Local().Format("2006年1月2日")
	}
	return t.Local().Format("2 Jan 2006")
}

// life says when a session is over.
func (w words) life(e userclient.Ends) string {
	if e.Unused.IsZero() || !e.Unused.Before(e.Last) {
		return w.say("at most", w.day(e.Last))
	}
	return w.say("life", w.day(e.Unused), w.day(e.Last))
}

// clock writes a time of today.
func (w words) clock(t time.Time) string { return t.Local().Format("15:04:05") }

// told is an error in the person's language.
type told struct {
	text string
	err  error
}

// Error is the text for people.
func (t *told) Error() string { return t.text }

// Unwrap is what happened.
func (t *told) Unwrap() error { return t.err }

// explain puts an error into the person's language, with what to do next.
func (w words) explain(err error) error {
	text := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		text = w.say("cancelled")
	case errors.Is(err, userclient.ErrNotRevoked):
		text = w.say("not revoked", err)
	case errors.Is(err, userclient.ErrDenied):
		text = w.say("denied")
	case errors.Is(err, userclient.ErrExpired):
		text = w.say("expired")
	case err == userclient.ErrSignedOut: // nothing else is known
		text = w.say("nobody")
	case errors.Is(err, userclient.ErrSignedOut):
		text = w.say("ended", err)
	case errors.Is(err, userclient.ErrAmbiguous):
		text = w.say("several", err)
	case errors.Is(err, userclient.ErrHostile):
		text = w.say("hostile", err)
	case errors.Is(err, userclient.ErrUnreachable):
		text = w.say("unreachable", err)
	default:
		return err
	}
	return &told{text, err}
}

// outcome is an error's name in --json.
func outcome(err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, userclient.ErrDenied):
		return "denied"
	case errors.Is(err, userclient.ErrExpired):
		return "expired"
	case errors.Is(err, userclient.ErrSignedOut):
		return "signed_out"
	case errors.Is(err, userclient.ErrUnreachable):
		return "unreachable"
	}
	return "failed"
}

// fail reports an error: in JSON what became of it on stdout, the words on stderr
// by whoever called.
func (e env) fail(w words, asJSON bool, err error) error {
	if err == nil {
		return nil
	}
	err = w.explain(err)
	if asJSON {
		if jerr := e.printLine(map[string]any{"result": outcome(err), "error": err.Error()}); jerr != nil {
			return errors.Join(err, jerr)
		}
	}
	return err
}

// note tells people something beside the data.
func (e env) note(text string) { fmt.Fprintln(e.stderr, "gatehouse:", text) }

func speak() words { return language(os.Getenv) }
