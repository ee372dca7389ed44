package web

// PublicMail reports whether everybody can have an address of a domain, given in
// its normal form, so that it says nothing of where somebody works. The list is
// of the large providers; one that is missing costs a detour on the sign-in page
// and gives no right.
func PublicMail(domain string) bool {
	switch domain {
	case "gmail.com", "googlemail.com", "outlook.com", "hotmail.com", "live.com", "msn.com", "yahoo.com", "icloud.com", "me.com", "aol.com",
		"proton.me", "protonmail.com", "gmx.com", "gmx.de", "gmx.net", "web.de", "mail.com", "mail.ru", "yandex.ru", "yandex.com",
		"qq.com", "vip.qq.com", "foxmail.com", "163.com", "126.com", "yeah.net", "sina.com", "sina.cn", "sohu.com", "aliyun.com", "139.com", "189.cn", "naver.com":
		return true
	}
	return false
}
