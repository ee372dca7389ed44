package policy

import (
	"time"

	"cel.dev/cel-go/common/types/ref"
)

// Input is what an expression is decided on. A nil part does not exist, an
// empty id in a part is unset: reading either is an error, and so a refusal.
type Input struct {
	User     *User
	Identity *Identity
	Session  *Session
	Client   *Client
	Request  *Request
	Route    *Route
	Lease    *Lease
	Target   *Target
	Subject  *Subject
	Actor    *Actor
	// Claims are what an upstream said, as it said it.
	Claims map[string]any
}

// User is the person (or service) who asks.
type User struct {
	ID, Email, Name, Username, Kind string
	Groups                          []string
	Attributes                      map[string]any
}

// Identity is what the upstream proved.
type Identity struct {
	Connector, Org, Subject, Username, Name, Email string
	EmailVerified                                  bool
	Groups                                         []string
	Claims                                         map[string]any
}

// Session is the session or token that the request came with.
type Session struct {
	ID, Kind, Connector, ACR, Device string
	Scope, AMR                       []string
	AuthTime                         time.Time
	Age                              time.Duration
}

// Client is the OIDC client that asked, if one did.
type Client struct{ ID, Name string }

// Request is the HTTP request.
type Request struct {
	Method, Path, Host, IP string
	Time                   time.Time
}

// Route is the gateway's route.
type Route struct{ Name, Host string }

// Lease is the console's lease.
type Lease struct {
	ID, Owner, Node, Kind string
	Users, Groups         []string
	ReadOnly              bool
	// Admits is whether the lease itself lets this user in: as the owner, as
	// somebody invited, or by its own rule.
	Admits bool
}

// Target is the token that an exchange would give.
type Target struct {
	Audience string
	Scopes   []string
}

// Subject is the token that was presented for exchange.
type Subject struct{ Client, Audience string }

// Actor is who acts for the person of an exchange, if anybody.
type Actor struct{ ID, Client, Kind string }

// set leaves an empty text out, so that it equals nothing.
func set(m map[string]any, key, v string) {
	if v != "" {
		m[key] = v
	}
}

func list(v []string) []string {
	if v == nil {
		return []string{}
	}
	return v
}

func (in Input) vars(names []string) map[string]any {
	out := make(map[string]any, len(names))
	for _, n := range names {
		m := map[string]any{}
		switch n {
		case "claims":
			if in.Claims != nil {
				m = in.Claims
			}
		case "user":
			if u := in.User; u != nil {
				set(m, "id", u.ID)
				set(m, "email", u.Email)
				set(m, "name", u.Name)
				set(m, "username", u.Username)
				set(m, "kind", u.Kind)
				m["groups"] = list(u.Groups)
				if u.Attributes != nil {
					m["attributes"] = u.Attributes
				}
			}
		case "identity":
			if i := in.Identity; i != nil {
				set(m, "connector", i.Connector)
				set(m, "org", i.Org)
				set(m, "subject", i.Subject)
				set(m, "username", i.Username)
				set(m, "name", i.Name)
				set(m, "email", i.Email)
				m["email_verified"] = i.EmailVerified
				m["groups"] = list(i.Groups)
				if i.Claims != nil {
					m["claims"] = i.Claims
				}
			}
		case "session":
			if s := in.Session; s != nil {
				set(m, "id", s.ID)
				set(m, "kind", s.Kind)
				set(m, "connector", s.Connector)
				set(m, "acr", s.ACR)
				set(m, "device", s.Device)
				m["scope"], m["amr"] = list(s.Scope), list(s.AMR)
				if !s.AuthTime.IsZero() {
					m["auth_time"], m["age"] = s.AuthTime, s.Age
				}
			}
		case "client":
			if c := in.Client; c != nil {
				set(m, "id", c.ID)
				set(m, "name", c.Name)
			}
		case "request":
			if r := in.Request; r != nil {
				set(m, "method", r.Method)
				set(m, "path", r.Path)
				set(m, "host", r.Host)
				set(m, "ip", r.IP)
				m["time"] = r.Time
			}
		case "route":
			if r := in.Route; r != nil {
				set(m, "name", r.Name)
				set(m, "host", r.Host)
			}
		case "lease":
			if l := in.Lease; l != nil {
				set(m, "id", l.ID)
				set(m, "owner", l.Owner)
				set(m, "node", l.Node)
				set(m, "kind", l.Kind)
				m["users"], m["groups"] = list(l.Users), list(l.Groups)
				m["read_only"], m["admits"] = l.ReadOnly, l.Admits
			}
		case "target":
			if t := in.Target; t != nil {
				set(m, "audience", t.Audience)
				m["scopes"] = list(t.Scopes)
			}
		case "subject":
			if s := in.Subject; s != nil {
				set(m, "client", s.Client)
				set(m, "audience", s.Audience)
			}
		case "actor":
			if a := in.Actor; a != nil {
				set(m, "id", a.ID)
				set(m, "client", a.Client)
				set(m, "kind", a.Kind)
			}
		}
		out[n] = m
	}
	return out
}

// native takes CEL's own values out of lists and maps, for JSON.
func native(v any) any {
	switch v := v.(type) {
	case []ref.Val:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = native(e.Value())
		}
		return out
	case map[ref.Val]ref.Val:
		out := make(map[string]any, len(v))
		for k, e := range v {
			if s, ok := k.Value().(string); ok {
				out[s] = native(e.Value())
			}
		}
		return out
	}
	return v
}
