package saml

import (
	"encoding/xml"
	"strings"
	"time"

	"github.com/beevik/etree"
	"github.com/russellhaering/goxmldsig/etreeutils"
)

// assertionXML is what is read of an assertion.
type assertionXML struct {
	XMLName      xml.Name
	ID           string   `xml:"ID,attr"`
	Version      string   `xml:"Version,attr"`
	IssueInstant string   `xml:"IssueInstant,attr"`
	Issuer       []string `xml:"urn:oasis:names:tc:SAML:2.0:assertion Issuer"`
	Subject      []struct {
		NameID        []nameID          `xml:"urn:oasis:names:tc:SAML:2.0:assertion NameID"`
		Confirmations []confirmationXML `xml:"urn:oasis:names:tc:SAML:2.0:assertion SubjectConfirmation"`
	} `xml:"urn:oasis:names:tc:SAML:2.0:assertion Subject"`
	Conditions []struct {
		NotBefore    string        `xml:"NotBefore,attr"`
		NotOnOrAfter string        `xml:"NotOnOrAfter,attr"`
		Audience     []audienceXML `xml:"urn:oasis:names:tc:SAML:2.0:assertion AudienceRestriction"`
		OneTimeUse   []struct{}    `xml:"urn:oasis:names:tc:SAML:2.0:assertion OneTimeUse"`
		Proxy        []struct{}    `xml:"urn:oasis:names:tc:SAML:2.0:assertion ProxyRestriction"`
		Unknown      []struct {
			XMLName xml.Name
		} `xml:",any"`
	} `xml:"urn:oasis:names:tc:SAML:2.0:assertion Conditions"`
	Authn []struct {
		AuthnInstant        string `xml:"AuthnInstant,attr"`
		SessionIndex        string `xml:"SessionIndex,attr"`
		SessionNotOnOrAfter string `xml:"SessionNotOnOrAfter,attr"`
		Context             struct {
			ClassRef string `xml:"urn:oasis:names:tc:SAML:2.0:assertion AuthnContextClassRef"`
		} `xml:"urn:oasis:names:tc:SAML:2.0:assertion AuthnContext"`
	} `xml:"urn:oasis:names:tc:SAML:2.0:assertion AuthnStatement"`
	Statements []struct {
		Attributes []attributeXML `xml:"urn:oasis:names:tc:SAML:2.0:assertion Attribute"`
	} `xml:"urn:oasis:names:tc:SAML:2.0:assertion AttributeStatement"`
}

type nameID struct {
	Format          string `xml:"Format,attr" json:"f,omitempty"`
	NameQualifier   string `xml:"NameQualifier,attr" json:"q,omitempty"`
	SPNameQualifier string `xml:"SPNameQualifier,attr" json:"s,omitempty"`
	SPProvidedID    string `xml:"SPProvidedID,attr" json:"-"`
	Value           string `xml:",chardata" json:"n"`
}

type confirmationXML struct {
	Method string `xml:"Method,attr"`
	Data   *struct {
		NotBefore    *string `xml:"NotBefore,attr"`
		NotOnOrAfter string  `xml:"NotOnOrAfter,attr"`
		Recipient    string  `xml:"Recipient,attr"`
		InResponseTo *string `xml:"InResponseTo,attr"`
	} `xml:"urn:oasis:names:tc:SAML:2.0:assertion SubjectConfirmationData"`
}

type audienceXML struct {
	Audiences []string `xml:"urn:oasis:names:tc:SAML:2.0:assertion Audience"`
}

type attributeXML struct {
	Name         string `xml:"Name,attr"`
	FriendlyName string `xml:"FriendlyName,attr"`
	Values       []struct {
		Text   string   `xml:",chardata"`
		NameID []nameID `xml:"urn:oasis:names:tc:SAML:2.0:assertion NameID"`
	} `xml:"urn:oasis:names:tc:SAML:2.0:assertion AttributeValue"`
}

func readAssertion(doc []byte) (*assertionXML, error) {
	var a assertionXML
	if err := xml.Unmarshal(doc, &a); err != nil {
		return nil, refuse("not_xml", "the assertion cannot be read: %v", err)
	}
	if a.XMLName != (xml.Name{Space: nsAssertion, Local: "Assertion"}) {
		return nil, refuse("assertions", "it is no assertion")
	}
	return &a, nil
}

// answers reports whether any confirmation names a request.
func (a *assertionXML) answers() bool {
	for _, s := range a.Subject {
		for _, c := range s.Confirmations {
			if c.Data != nil && c.Data.InResponseTo != nil {
				return true
			}
		}
	}
	return false
}

const methodBearer = "urn:oasis:names:tc:SAML:2.0:cm:bearer"

// judgeAssertion is SP-6. It returns until when the assertion could be brought
// again.
func (c *Connector) judgeAssertion(a *assertionXML, p *provider, s secret, forced bool) (until time.Time, err error) {
	now := c.now()
	issuer, one := sole(a.Issuer)
	switch {
	case a.Version != "2.0":
		return until, refuse("version", "the assertion is of SAML %q", a.Version)
	case a.ID == "":
		return until, refuse("id", "the assertion has no ID")
	case !one || issuer != p.EntityID:
		return until, refuse("issuer", "the assertion is by %q, not by %s", a.Issuer, p.EntityID)
	case len(a.Subject) != 1 || len(a.Subject[0].NameID) > 1:
		return until, refuse("subject", "the assertion has not one subject")
	}
	if err := c.judgeInstant("assertion", a.IssueInstant); err != nil {
		return until, err
	}
	if until, err = c.confirmed(a.Subject[0].Confirmations, s, now); err != nil {
		return until, err
	}
	if err := c.conditions(a, now); err != nil {
		return until, err
	}
	return until, judgeAuthn(a, s, forced, now)
}

// confirmed wants one bearer confirmation that is for us, for this request and
// of now (SAML profiles section 4.1.4.2). The refusal is that of the first one.
func (c *Connector) confirmed(cs []confirmationXML, s secret, now time.Time) (until time.Time, err error) {
	err = refuse("subject_confirmation", "the assertion has no bearer confirmation")
	for i, x := range cs {
		var bad error
		var ends time.Time
		switch {
		case x.Method != methodBearer:
			bad = refuse("subject_confirmation", "the confirmation's method is %q, not bearer", x.Method)
		case x.Data == nil:
			bad = refuse("subject_confirmation", "the bearer confirmation has no data")
		case x.Data.Recipient != c.acs():
			bad = refuse("recipient", "the assertion was meant for %q; the address here is %s", x.Data.Recipient, c.acs())
		case x.Data.NotBefore != nil:
			bad = refuse("subject_confirmation", "a bearer confirmation may have no NotBefore")
		case x.Data.InResponseTo == nil || *x.Data.InResponseTo != s.ID:
			bad = refuse("in_response_to", "the assertion is the answer to another request")
		default:
			if ends, bad = instant(x.Data.NotOnOrAfter); bad != nil {
				bad = refuse("subject_confirmation", "the bearer confirmation has no NotOnOrAfter")
			} else if !now.Before(ends.Add(skew)) {
				bad = refuse("expired", "the assertion could be used until %s", ends.Format(time.RFC3339))
			}
		}
		if bad == nil {
			return ends, nil
		}
		if i == 0 {
			err = bad
		}
	}
	return until, err
}

func (c *Connector) conditions(a *assertionXML, now time.Time) error {
	if len(a.Conditions) != 1 {
		return refuse("conditions", "the assertion has not one Conditions element")
	}
	cond := a.Conditions[0]
	if len(cond.Unknown) > 0 {
		return refuse("conditions", "the assertion has a condition that is not known here: %s", cond.Unknown[0].XMLName.Local)
	}
	if cond.NotBefore != "" {
		t, err := instant(cond.NotBefore)
		if err != nil {
			return refuse("conditions", "NotBefore is not a time")
		}
		if now.Add(skew).Before(t) {
			return clock(t.Sub(now), refuse("not_yet", "the assertion is good from %s on", t.Format(time.RFC3339)))
		}
	}
	t, err := instant(cond.NotOnOrAfter)
	if err != nil {
		return refuse("conditions", "the conditions have no NotOnOrAfter")
	}
	if !now.Before(t.Add(skew)) {
		return refuse("expired", "the assertion was good until %s", t.Format(time.RFC3339))
	}
	if !c.audiences(cond.Audience) {
		return refuse("audience", "the assertion is for somebody else; its audience here is %s", c.entityID())
	}
	return nil
}

// judgeAuthn wants to know when and how long the person was signed in there,
// and, where a fresh authentication was asked for, that it was one.
func judgeAuthn(a *assertionXML, s secret, forced bool, now time.Time) error {
	if len(a.Authn) == 0 {
		return refuse("authn_statement", "the assertion does not say that anybody signed in")
	}
	for _, st := range a.Authn {
		at, err := instant(st.AuthnInstant)
		if err != nil {
			return refuse("authn_statement", "AuthnInstant is not a time")
		}
		if forced && at.Before(s.At.Add(-skew)) {
			return refuse("not_fresh", "a new authentication was asked for, and the identity provider used one of %s", at.Format(time.RFC3339))
		}
		if st.SessionNotOnOrAfter == "" {
			continue
		}
		ends, err := instant(st.SessionNotOnOrAfter)
		if err != nil {
			return refuse("authn_statement", "SessionNotOnOrAfter is not a time")
		}
		if !now.Before(ends) {
			return refuse("session_over", "the session at the identity provider ended at %s", ends.Format(time.RFC3339))
		}
	}
	return nil
}

// detach writes an element with the namespaces that stand around it.
func detach(el *etree.Element) ([]byte, error) {
	ctx, err := etreeutils.NSBuildParentContext(el)
	if err != nil {
		return nil, refuse("not_xml", "%v", err)
	}
	out, err := etreeutils.NSDetatch(ctx, el)
	if err != nil {
		return nil, refuse("not_xml", "%v", err)
	}
	return encoded(out)
}

// text refuses what may look like something else where it is shown or compared
// (docs/security.md SP-10); nothing is trimmed.
func text(s string) bool {
	if s == "" || len(s) > 256 {
		return false
	}
	return !strings.ContainsFunc(s, unsafeRune)
}
