package objectstore

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"
)

// Error is what went wrong with a bucket, and what to do about it.
type Error struct {
	// Bucket is the bucket's name in the configuration.
	Bucket string
	Op     string // put, get, list or delete
	Object string
	// Code is the store's own word for it; empty if the store did not answer.
	Code string
	// Text says what it means and what to do; empty where Err says enough.
	Text string
	// Lasting reports that trying again does not help until somebody has changed
	// something.
	Lasting bool
	Err     error
	is      error
}

// Error puts what to do before what the store said.
func (e *Error) Error() string {
	out := e.Bucket + ": " + e.Op
	if e.Object != "" {
		out += " " + e.Object
	}
	if e.Text != "" {
		out += ": " + e.Text
	}
	if e.Code != "" {
		return out + " (" + e.Code + ")"
	}
	return out + ": " + e.Err.Error()
}

// Unwrap returns what it means and what was underneath.
func (e *Error) Unwrap() []error {
	if e.is != nil {
		return []error{e.is, e.Err}
	}
	return []error{e.Err}
}

// Permanent reports whether somebody has to change something first.
func (e *Error) Permanent() bool { return e.Lasting }

// meaning is what a store's code stands for. {section} is the section, %[2]s the
// bucket.
type meaning struct {
	is      error
	lasting bool
	text    string
}

var meanings = map[string]meaning{
	"PreconditionFailed":           {is: fs.ErrExist, text: "there is an object of that name"},
	"FileAlreadyExists":            {is: fs.ErrExist, text: "there is an object of that name"},
	"ObjectAlreadyExists":          {is: fs.ErrExist, text: "there is an object of that name"},
	"NoSuchKey":                    {is: fs.ErrNotExist, text: "there is no such object"},
	"NoSuchBucket":                 {lasting: true, text: "there is no bucket {bucket}; make it there, or correct {section}.bucket"},
	"InvalidAccessKeyId":           {lasting: true, text: "the store does not know {section}.access_key; correct it, or make the key anew there"},
	"SignatureDoesNotMatch":        {lasting: true, text: "{section}.secret_key does not belong to {section}.access_key"},
	"AccessDenied":                 {is: fs.ErrPermission, lasting: true, text: "the key {section}.access_key may not do that; it needs put, get and list on the prefix"},
	"AllAccessDisabled":            {is: fs.ErrPermission, lasting: true, text: "the bucket has been closed by the vendor"},
	"ObjectLocked":                 {is: fs.ErrPermission, text: "the object is locked"},
	"FileImmutable":                {is: fs.ErrPermission, text: "the bucket's retention policy keeps the object"},
	"RequestTimeTooSkewed":         {lasting: true, text: "this machine's clock and the store's are more than 15 minutes apart; set this one by NTP"},
	"AuthorizationHeaderMalformed": {lasting: true, text: "the bucket is in another region; correct {section}.region"},
	"PermanentRedirect":            {lasting: true, text: "the bucket is in another region; correct {section}.endpoint and {section}.region"},
	"SecondLevelDomainForbidden":   {lasting: true, text: "the store wants the bucket in the host name; use the section oss"},
	"NotImplemented":               {lasting: true, text: "the store has no PUT that refuses to overwrite, which an archive needs"},
	"ConditionalRequestConflict":   {text: "somebody wrote the object at the same moment"},
	"SlowDown":                     {text: "the store is busy"},
}

// maxSaid bounds what is kept of a store's own words, in bytes.
const maxSaid = 300

// brief makes a store's words fit for a log and a terminal: one line, bounded.
func brief(s string) string {
	s = strings.Map(func(c rune) rune {
		if !unicode.IsGraphic(c) || c == utf8.RuneError || c == '\u2028' || c == '\u2029' {
			return ' '
		}
		return c
	}, s)
	if len(s) <= maxSaid {
		return s
	}
	cut := maxSaid
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// explain makes an error say what it means; nil stays nil.
func (b *Bucket) explain(op, object string, err error) error {
	if err == nil {
		return nil
	}
	e := &Error{Bucket: b.name, Op: op, Object: object, Err: err}
	var said minio.ErrorResponse
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var network net.Error
	switch {
	case errors.As(err, &said) && said.Code != "":
		said.Code, said.Message = brief(said.Code), brief(said.Message)
		e.Code, e.Err = said.Code, said
		m, known := meanings[said.Code]
		switch {
		case known:
		case said.StatusCode == http.StatusPreconditionFailed:
			m = meanings["PreconditionFailed"]
		case said.StatusCode == http.StatusForbidden:
			m = meanings["AccessDenied"]
		case op == "delete" && (said.Code == "InvalidRequest" || said.StatusCode == http.StatusMethodNotAllowed):
			m = meanings["ObjectLocked"] // MinIO answers 400 for an object that is retained
		default:
			m.text = strings.TrimSuffix(said.Message, ".")
		}
		m.text = strings.NewReplacer("{section}", string(b.Kind), "{bucket}", b.Bucket).Replace(m.text)
		if op == "delete" && errors.Is(m.is, fs.ErrPermission) {
			m.text = "the bucket keeps what it has"
		}
		e.is, e.Lasting, e.Text = m.is, m.lasting, m.text
	case errors.As(err, &unknown):
		e.Text, e.Lasting = fmt.Sprintf("the certificate of %s is by an authority that is not known here; name that one's certificate in %s.ca_file", b.Host, b.Kind), true
	case errors.As(err, &name):
		e.Text, e.Lasting = fmt.Sprintf("the certificate is another host's; correct %s.endpoint", b.Kind), true
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		e.Text = b.Host + " did not answer in time"
	}
	return e
}
