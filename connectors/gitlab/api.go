package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/oidc"
)

const (
	maxAnswer = 1 << 20
	perPage   = 100
	maxPages  = 50
)

// account is what is used of GET /user.
type account struct {
	ID        int64  `json:"id"`
	State     string `json:"state"`
	Confirmed string `json:"confirmed_at"`
}

// user asks the API about the account, where a scope lets us.
func (g *rules) user(ctx context.Context, p oidc.Proof, subject string) (account, error) {
	body, err := oidc.Fetch(ctx, p.HTTP, g.api+"/user", p.AccessToken, maxAnswer)
	if err != nil {
		return account{}, fmt.Errorf("gitlab: /user: %w", err)
	}
	var u account
	if json.Unmarshal(body, &u) != nil || u.ID <= 0 {
		return account{}, errors.New("gitlab: /user: the answer is not what the API documents")
	}
	switch {
	case strconv.FormatInt(u.ID, 10) != subject:
		return account{}, errors.New("gitlab: /user: the answer is about somebody else")
	case u.State != "" && u.State != "active":
		return account{}, fmt.Errorf("gitlab: the account is not active: %w", connectors.ErrNotAllowed)
	}
	return u, nil
}

// numbers returns the ids of the person's groups by their full path in lower
// case. A list that does not end is an error: of half a list nobody can say who
// is missing.
func (g *rules) numbers(ctx context.Context, p oidc.Proof) (map[string]int64, error) {
	out := map[string]int64{}
	for page := 1; page <= maxPages; page++ {
		q := url.Values{"min_access_level": {"10"}, "per_page": {strconv.Itoa(perPage)}, "page": {strconv.Itoa(page)}, "order_by": {"id"}}
		body, err := oidc.Fetch(ctx, p.HTTP, g.api+"/groups?"+q.Encode(), p.AccessToken, 4*maxAnswer)
		if err != nil {
			return nil, fmt.Errorf("gitlab: /groups: %w", err)
		}
		var l []struct {
			ID   int64  `json:"id"`
			Path string `json:"full_path"`
		}
		if json.Unmarshal(body, &l) != nil || l == nil {
			return nil, errors.New("gitlab: /groups: the answer is not what the API documents")
		}
		for _, e := range l {
			if e.ID > 0 && groupPath(e.Path) {
				out[strings.ToLower(e.Path)] = e.ID
			}
		}
		if len(l) < perPage {
			return out, nil
		}
	}
	return nil, fmt.Errorf("gitlab: /groups: more than %d pages", maxPages)
}
