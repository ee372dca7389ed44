package event

// Name is what happened. The same names stand in the audit log, notifications,
// webhooks and metrics.
type Name string

// The events there are.
const (
	SigninSucceeded      Name = "signin.succeeded"
	SigninFailed         Name = "signin.failed"
	SigninLockout        Name = "signin.lockout"
	SigninNewDevice      Name = "signin.new_device"
	Signout              Name = "signout"
	UserCreated          Name = "user.created"
	UserUpdated          Name = "user.updated"
	UserSuspended        Name = "user.suspended"
	UserResumed          Name = "user.resumed"
	UserDeleted          Name = "user.deleted"
	IdentityLinked       Name = "identity.linked"
	IdentityUnlinked     Name = "identity.unlinked"
	SessionRevoked       Name = "session.revoked"
	TokenRefreshReused   Name = "token.refresh_reused"
	ConsentGranted       Name = "consent.granted"
	ConsentRevoked       Name = "consent.revoked"
	DeviceApproved       Name = "device.approved"
	DeviceDenied         Name = "device.denied"
	APIKeyCreated        Name = "apikey.created"
	APIKeyRevoked        Name = "apikey.revoked"
	ClientCreated        Name = "client.created"
	ClientUpdated        Name = "client.updated"
	ClientDeleted        Name = "client.deleted"
	ConnectorCreated     Name = "connector.created"
	ConnectorUpdated     Name = "connector.updated"
	ConnectorDown        Name = "connector.down"
	ConnectorUp          Name = "connector.up"
	ConnectorCertificate Name = "connector.certificate_expiring"
	ConnectorTested      Name = "connector.tested"
	ConnectorStaged      Name = "connector.staged"
	KeyRotated           Name = "key.rotated"
	KeyRevoked           Name = "key.revoked"
	WorkloadExchanged    Name = "workload.exchanged"
	WorkloadDenied       Name = "workload.denied"
	ConsoleLeased        Name = "console.leased"
	ConsoleReleased      Name = "console.released"
	ConsoleOpened        Name = "console.opened"
	ConsoleDenied        Name = "console.denied"
	StorageLent          Name = "storage.lent"
	AdminChanged         Name = "admin.changed"
	ConfigReloaded       Name = "config.reloaded"
	ConfigRejected       Name = "config.rejected"
	DetectionRaised      Name = "detection.raised"
	AuditArchived        Name = "audit.archived"
	AuditArchiveFailed   Name = "audit.archive_failed"
	NotifyFailed         Name = "notify.failed"
	SCIMProvisioned      Name = "scim.provisioned"
	SCIMDeprovisioned    Name = "scim.deprovisioned"
)

// All lists the names, for readers that must know every one of them.
func All() []Name {
	return []Name{
		SigninSucceeded, SigninFailed, SigninLockout, SigninNewDevice, Signout, UserCreated, UserUpdated, UserSuspended,
		UserResumed, UserDeleted, IdentityLinked, IdentityUnlinked, SessionRevoked, TokenRefreshReused, ConsentGranted,
		ConsentRevoked, DeviceApproved, DeviceDenied, APIKeyCreated, APIKeyRevoked, ClientCreated, ClientUpdated,
		ClientDeleted, ConnectorCreated, ConnectorUpdated, ConnectorDown, ConnectorUp, ConnectorCertificate,
		ConnectorTested, ConnectorStaged, KeyRotated, KeyRevoked, WorkloadExchanged, WorkloadDenied, ConsoleLeased,
		ConsoleReleased, ConsoleOpened, ConsoleDenied, StorageLent, AdminChanged, ConfigReloaded, ConfigRejected, DetectionRaised,
		AuditArchived, AuditArchiveFailed, NotifyFailed, SCIMProvisioned, SCIMDeprovisioned,
	}
}
