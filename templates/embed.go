// Package templates embeds the HTML templates and the texts of both languages.
// It holds no code: broker/web renders them.
package templates

import "embed"

// FS holds *.html and locale/*.json.
//
//go:embed *.html locale/*.json
var FS embed.FS
