// Package static embeds the style sheet, the script and the icons. Nothing is
// loaded from anywhere else.
package static

import "embed"

// FS holds app.css, app.js and icons/.
//
//go:embed app.css app.js icons
var FS embed.FS
