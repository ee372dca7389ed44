package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/cmd/gatehouse/internal/userclient"
)

// The first of the three variables that is set decides, as for other programs.
func TestLanguage(t *testing.T) {
	for _, c := range []struct {
		all, messages, lang string
		want                words
	}{
		{"", "", "", "en"}, {"", "", "zh_CN.UTF-8", "zh"}, {"", "", "zh_TW", "zh"}, {"C", "", "zh_CN.UTF-8", "en"}, {"", "zh_CN", "en_US.UTF-8", "zh"}, {"en_GB.UTF-8", "zh_CN", "zh_CN", "en"}, {"", "", "de_DE.UTF-8", "en"},
	} {
		env := map[string]string{"LC_ALL": c.all, "LC_MESSAGES": c.messages, "LANG": c.lang}
		if got := language(func(k string) string { return env[k] }); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

// Every text is there in both languages, with the same things to fill in, and is
// used.
func TestSpoken(t *testing.T) {
	var source strings.Builder
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(raw)
	}
	asked := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?:\bw\.say|\bline)\("([a-z ]+)"`).FindAllStringSubmatch(source.String(), -1) {
		asked[m[1]] = true
		if _, ok := spoken[m[1]]; !ok {
			t.Errorf("there is no text %q", m[1])
		}
	}
	verbs := regexp.MustCompile(`%[a-z]`)
	for key, both := range spoken {
		en, zh := verbs.FindAllString(both[0], -1), verbs.FindAllString(both[1], -1)
		if both[0] == "" || both[1] == "" || fmt.Sprint(en) != fmt.Sprint(zh) || strings.HasSuffix(both[0], "\n") != strings.HasSuffix(both[1], "\n") {
			t.Errorf("%s: %q and %q", key, both[0], both[1])
		}
		if !asked[key] {
			t.Errorf("nobody says %q", key)
		}
	}
}

// What went wrong is said in the person's language and named for programs, and
// stays what it was.
func TestExplain(t *testing.T) {
	for _, c := range []struct {
		err         error
		en, zh, out string
	}{
		{userclient.ErrSignedOut, "gatehouse login", "尚未登录", "signed_out"},
		{fmt.Errorf("profile work: %w", userclient.ErrSignedOut), "profile work", "profile work", "signed_out"},
		{fmt.Errorf("a, b: %w", userclient.ErrAmbiguous), "a, b", "--profile", "failed"},
		{fmt.Errorf("%w: no", userclient.ErrDenied), "not allowed", "未获允许", "denied"},
		{userclient.ErrExpired, "nobody has signed in", "已超时", "expired"},
		{context.Canceled, "cancelled", "已取消", "cancelled"},
		{&userclient.AnswerError{Status: 503}, "try again later", "请稍后再试", "unreachable"},
		{fmt.Errorf("elsewhere: %w", userclient.ErrHostile), "stopped for safety", "出于安全考虑", "failed"},
		{fmt.Errorf("%w: down", userclient.ErrNotRevoked), "/account/sessions", "/account/sessions", "failed"},
		{errors.New("other"), "other", "other", "failed"},
	} {
		for w, want := range map[words]string{"en": c.en, "zh": c.zh} {
			got := w.explain(c.err)
			if !strings.Contains(got.Error(), want) || !errors.Is(got, c.err) || strings.Contains(got.Error(), "%!") || outcome(got) != c.out {
				t.Errorf("%s of %v: %q, %s", w, c.err, got, outcome(got))
			}
		}
	}
	if words("en").explain(nil) != nil {
		t.Error("nothing became an error")
	}
}

// What a shell evaluates holds nothing but words.
func TestExports(t *testing.T) {
	got := exports(userclient.Credentials{KeyID: "AK", Key: "it's", Session: "s", Bucket: "b", Prefix: "users/$(id)/"})
	want := "export AWS_ACCESS_KEY_ID='AK'\nexport AWS_SECRET_ACCESS_KEY='it'\\''s'\nexport AWS_SESSION_TOKEN='s'\nexport GATEHOUSE_STORAGE_BUCKET='b'\nexport GATEHOUSE_STORAGE_PREFIX='users/$(id)/'\n"
	if got != want {
		t.Errorf("%s", got)
	}
}
