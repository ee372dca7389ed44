//go:build e2e && full

package e2e

import "testing"

// Ten million events are half a year of a platform with twenty thousand people.
func TestAuditIndexMillions(t *testing.T) { auditIndex(t, 10_000_000) }
