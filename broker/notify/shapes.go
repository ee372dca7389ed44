package notify

import "github.com/remotegpu/gatehouse/broker/event"

// kindOf says what an event's Target is, so that it is shown as people know it.
type kindOf int

const (
	nothing kindOf = iota // the target says nothing to people
	person
	connector
	client
	signingKey
	console
	plainTarget
)

// shape is what of an event is worth reading.
type shape struct {
	target  kindOf
	details []string // keys of Details, in this order
}

// shapes are those of all events; shapeOf says what one without a line is.
func shapes() map[event.Name]shape {
	return map[event.Name]shape{
		event.SigninSucceeded:      {},
		event.SigninFailed:         {person, []string{"reason"}},
		event.SigninLockout:        {person, nil},
		event.SigninNewDevice:      {person, []string{"place"}},
		event.Signout:              {},
		event.UserCreated:          {person, nil},
		event.UserUpdated:          {person, nil},
		event.UserSuspended:        {person, []string{"reason"}},
		event.UserResumed:          {person, nil},
		event.UserDeleted:          {plainTarget, nil},
		event.IdentityLinked:       {person, []string{"how"}},
		event.IdentityUnlinked:     {person, []string{"how"}},
		event.SessionRevoked:       {person, []string{"kind", "reason"}},
		event.TokenRefreshReused:   {},
		event.ConsentGranted:       {client, []string{"scope"}},
		event.ConsentRevoked:       {client, nil},
		event.DeviceApproved:       {client, []string{"name", "device_ip", "device_place", "scope"}},
		event.DeviceDenied:         {client, []string{"name", "device_ip", "device_place"}},
		event.APIKeyCreated:        {person, []string{"name", "scopes", "rotates"}},
		event.APIKeyRevoked:        {person, []string{"name"}},
		event.ClientCreated:        {client, nil},
		event.ClientUpdated:        {client, nil},
		event.ClientDeleted:        {client, nil},
		event.ConnectorCreated:     {connector, nil},
		event.ConnectorUpdated:     {connector, []string{"certificates"}},
		event.ConnectorDown:        {connector, []string{"reason"}},
		event.ConnectorUp:          {connector, nil},
		event.ConnectorCertificate: {connector, []string{"days", "ends", "whose"}},
		event.ConnectorTested:      {connector, nil},
		event.ConnectorStaged:      {connector, nil},
		event.KeyRotated:           {signingKey, nil},
		event.KeyRevoked:           {signingKey, nil},
		event.WorkloadExchanged:    {plainTarget, []string{"rule"}},
		event.WorkloadDenied:       {plainTarget, []string{"rule", "reason"}},
		event.ConsoleLeased:        {console, []string{"node"}},
		event.ConsoleReleased:      {console, []string{"node", "reason"}},
		event.ConsoleOpened:        {console, nil},
		event.ConsoleDenied:        {console, nil},
		event.StorageLent:          {person, []string{"name"}},
		event.AdminChanged:         {plainTarget, []string{"change", "action", "alg", "kid"}},
		event.ConfigReloaded:       {nothing, []string{"changed", "restart"}},
		event.ConfigRejected:       {nothing, []string{"reason"}},
		event.DetectionRaised:      {plainTarget, []string{"rule", "count", "window", "place"}},
		event.AuditArchived:        {plainTarget, nil},
		event.AuditArchiveFailed:   {plainTarget, []string{"error"}},
		event.NotifyFailed:         {plainTarget, []string{"error", "dead_letter"}},
		event.SCIMProvisioned:      {person, nil},
		event.SCIMDeprovisioned:    {person, nil},
	}
}

// labels are the texts of what stands before a value.
func labels() map[string]string {
	return map[string]string{
		"action": "notify.field.action", "alg": "notify.field.alg", "certificates": "notify.field.certificates", "change": "notify.field.change",
		"changed": "notify.field.changed", "count": "notify.field.count", "days": "notify.field.days", "dead_letter": "notify.field.dead_letter",
		"device_ip": "notify.field.device_ip", "device_place": "notify.field.device_place",
		"ends": "notify.field.ends", "error": "notify.field.error", "how": "notify.field.how", "kid": "notify.field.key", "kind": "notify.field.kind",
		"name": "notify.field.name", "node": "notify.field.node", "place": "notify.field.place", "reason": "notify.field.reason",
		"restart": "notify.field.restart", "rotates": "notify.field.rotates", "rule": "notify.field.rule", "scope": "notify.field.scopes",
		"scopes": "notify.field.scopes", "whose": "notify.field.whose", "window": "notify.field.window",
	}
}

// targetLabel is the text before the target of a kind.
func targetLabel(k kindOf) string {
	switch k {
	case person:
		return "notify.field.account"
	case connector:
		return "notify.field.connector"
	case client:
		return "notify.field.client"
	case signingKey:
		return "notify.field.key"
	case console:
		return "notify.field.console"
	default:
		return "notify.field.about"
	}
}
