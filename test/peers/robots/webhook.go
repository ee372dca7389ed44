package robots

import (
	"io"
	"net/http"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Webhook is a receiver that verifies by the library of Standard Webhooks, and
// takes a message that comes twice once.
type Webhook struct {
	Receiver
	Secret string // whsec_…

	ids map[string]bool
}

// ServeHTTP answers 204, 401 to what does not verify, and 200 to a repetition.
func (h *Webhook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.scripted(w) {
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	verifier, err := standardwebhooks.NewWebhook(h.Secret)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if err := verifier.Verify(body, r.Header); err != nil {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, err.Error())
		return
	}
	id := r.Header.Get(standardwebhooks.HeaderWebhookID)
	h.mu.Lock()
	again := h.ids[id]
	if h.ids == nil {
		h.ids = map[string]bool{}
	}
	h.ids[id] = true
	h.mu.Unlock()
	if again {
		return
	}
	h.take(r, body)
	w.WriteHeader(http.StatusNoContent)
}
