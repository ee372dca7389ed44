package objectstore

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// maxPolicy is how long a session policy may be, in characters, at every vendor
// that takes one.
const maxPolicy = 2048

// statement is one of a policy, in the words that Amazon, MinIO and Alibaba share.
type statement struct {
	Effect    string
	Action    []string
	Resource  []string
	Condition map[string]map[string][]string `json:",omitempty"`
}

// words are a vendor's words for what is lent.
type words struct {
	version            string
	read, write, erase []string // of objects
	list, prefix       string   // of the bucket, and the condition's key
	arn                string   // before the bucket's name
}

// dialect returns the words of a vendor's policies. Only what can be bound to the
// prefix is there: listing uploads that are under way, for example, cannot.
func (a Address) dialect(role string) words {
	if a.Kind == OSS {
		return words{version: "1", read: []string{"oss:GetObject"}, write: []string{"oss:PutObject", "oss:AbortMultipartUpload", "oss:ListParts"}, erase: []string{"oss:DeleteObject"},
			list: "oss:ListObjects", prefix: "oss:Prefix", arn: "acs:oss:*:*:"}
	}
	partition := "aws"
	// The parts of Amazon that are apart have names of their own; a role there
	// carries it. What speaks Amazon's protocol elsewhere says aws.
	if _, rest, ok := strings.Cut(role, "arn:"); ok && strings.HasPrefix(rest, "aws-") {
		partition, _, _ = strings.Cut(rest, ":")
	}
	return words{version: "2012-10-17", read: []string{"s3:GetObject"}, write: []string{"s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"}, erase: []string{"s3:DeleteObject"},
		list: "s3:ListBucket", prefix: "s3:prefix", arn: "arn:" + partition + ":s3:::"}
}

// sessionPolicy bounds credentials to what is lent under a prefix; it can only
// take away from what the role may do. Tencent takes none: "".
func (l *Lender) sessionPolicy(prefix string) (string, error) {
	if l.Where.Kind == COS {
		return "", nil
	}
	w := l.Where.dialect(l.RoleARN)
	bucket := w.arn + l.Where.Bucket
	objects := statement{Effect: "Allow", Resource: []string{bucket + "/" + prefix + "*"}}
	for _, a := range []struct {
		access Access
		words  []string
	}{{Read, w.read}, {Write, w.write}, {Delete, w.erase}} {
		if slices.Contains(l.Access, a.access) {
			objects.Action = append(objects.Action, a.words...)
		}
	}
	all := []statement{objects}
	if slices.Contains(l.Access, Read) {
		all = append(all, statement{Effect: "Allow", Action: []string{w.list}, Resource: []string{bucket},
			Condition: map[string]map[string][]string{"StringLike": {w.prefix: {prefix + "*"}}}})
	}
	text, err := json.Marshal(struct {
		Version   string
		Statement []statement
	}{w.version, all})
	if err != nil {
		return "", err
	}
	if len(text) > maxPolicy {
		return "", fmt.Errorf("the session policy is %d characters long, the vendor takes %d; shorten prefix", len(text), maxPolicy)
	}
	return string(text), nil
}
