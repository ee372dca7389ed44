package event

import "slices"

// Severity says how much an event matters to those who run the service.
type Severity string

// The severities, from what is only worth keeping to what somebody must act on.
const (
	Info     Severity = "info"
	Warning  Severity = "warning"
	Critical Severity = "critical"
)

// Severities lists them, the least first.
func Severities() []Severity { return []Severity{Info, Warning, Critical} }

// AtLeast reports whether s matters as much as floor or more. What is none of
// the three matters least.
func (s Severity) AtLeast(floor Severity) bool {
	all := Severities()
	return slices.Index(all, s) >= slices.Index(all, floor)
}

// Severity is what an event of this name has unless it says otherwise. A single
// failed sign-in is everyday life and stays at Info: that there are many is for
// a detection to say.
func (n Name) Severity() Severity {
	switch n {
	case TokenRefreshReused, KeyRevoked:
		return Critical
	case SigninLockout, UserSuspended, UserDeleted, ConnectorDown, ConnectorCertificate, ConfigRejected,
		WorkloadDenied, DetectionRaised, AuditArchiveFailed, NotifyFailed:
		return Warning
	default:
		return Info
	}
}
