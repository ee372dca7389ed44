package broker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	rpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	rpcstatus "google.golang.org/grpc/status"
)

// dialRPC is a gRPC client of a gateway host, which sends the token.
func (h *harness) dialRPC(addr, host, token string) rpc.TestServiceClient {
	h.t.Helper()
	creds := insecure.NewCredentials()
	if h.tls != nil {
		creds = credentials.NewTLS(h.tls)
	}
	c, err := grpc.NewClient("passthrough:///"+host, grpc.WithTransportCredentials(creds), grpc.WithPerRPCCredentials(bearer(token)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return rpc.NewTestServiceClient(c)
}

// bearer sends a token with each call, over h2c too.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}
func (bearer) RequireTransportSecurity() bool { return false }

// rpcRoutes are a service over each way to an upstream. With a CA of its own, and
// as one of a group with health checks, it is the same.
const rpcRoutes = `
routes:
  - {name: h2c, host: h2c.localhost, upstream: "PLAIN", audience: demo-api, h2c: true}
  - {name: tls, host: tls.localhost, upstream: "SECURE", audience: demo-api, tls: {ca_file: CA}}
  - {name: group, host: group.localhost, upstreams: [{url: "SECURE"}], audience: demo-api, tls: {ca_file: CA}}
  - {name: admins, host: admins.localhost, upstream: "PLAIN", audience: demo-api, h2c: true, allow: '"platform-admins" in user.groups'}
  - {name: down, host: down.localhost, upstream: "http://127.0.0.1:1", audience: demo-api, h2c: true}
`

// gRPC by its own implementation, client and server, through the gateway: the
// client over TLS and without, the upstream over TLS and without.
func TestGatewayGRPC(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	cert := a.pair("upstream", "127.0.0.1")
	plain, plainURL := startRPC(t, nil)
	tlsd, tlsURL := startRPC(t, &cert)
	routes := strings.NewReplacer("PLAIN", plainURL, "SECURE", tlsURL, "CA", a.File).Replace(rpcRoutes)
	clear := start(t, routes)
	over, _ := secure(t, routes, "h2c.localhost", "tls.localhost", "group.localhost", "admins.localhost", "down.localhost")
	for _, x := range []struct {
		name string
		h    *harness
		host string
		up   *rpcServer
	}{
		{"TLS to h2c", over, "h2c.localhost", plain},
		{"TLS to TLS", over, "tls.localhost", tlsd},
		{"TLS to a group over TLS", over, "group.localhost", tlsd},
		{"h2c to h2c", clear, "h2c.localhost", plain},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := x.h.dialRPC(x.h.host, x.host, x.h.service("deployments:write"))
			callRPC(t, c, x.up)
			endRPC(t, c, x.up)
		})
	}
	refusedRPC(t, over)
	// Without TLS only routes that say so are served so.
	_, err := clear.dialRPC(clear.host, "tls.localhost", clear.service("")).UnaryCall(t.Context(), payload("x"))
	if rpcstatus.Code(err) != codes.Unknown || !strings.Contains(err.Error(), "505") {
		t.Errorf("h2c to a route that does not say it: %v", err)
	}
	// Prior knowledge alone: nothing is switched by Upgrade, there neither (GW-7).
	upgrade := "Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQAAP__\n"
	if r := clear.wire("POST / HTTP/1.1\nHost: h2c.localhost\nAuthorization: Bearer " + clear.service("") + "\nContent-Type: application/grpc\n" + upgrade + "Content-Length: 0\n\n"); r == nil || r.StatusCode == 101 || r.ProtoMajor != 1 {
		t.Errorf("Upgrade: h2c: %v", r)
	}
}

func payload(s string) *rpc.SimpleRequest {
	return &rpc.SimpleRequest{Payload: &rpc.Payload{Body: []byte(s)}}
}

// callRPC makes calls of each kind, and looks at metadata both ways.
func callRPC(t *testing.T, c rpc.TestServiceClient, up *rpcServer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// Unary, with metadata, text and binary; what is ours cannot be said by a client.
	out := metadata.AppendToOutgoingContext(ctx, "x-echo", "one", "x-echo", "two", "x-data-bin", "\x00\x01\xfe", "x-gatehouse-user", "root", "x_gatehouse_groups", "admins", "x-forwarded-for", "6.6.6.6")
	var first, last metadata.MD
	big := strings.Repeat("x", 3<<20)
	got, err := c.UnaryCall(out, payload(big), grpc.Header(&first), grpc.Trailer(&last))
	if err != nil || string(got.GetPayload().GetBody()) != big {
		t.Fatalf("unary: %d bytes, %v", len(got.GetPayload().GetBody()), err)
	}
	if fmt.Sprint(first["x-first"]) != "[one two]" || fmt.Sprint(last["x-last"]) != "[one two]" || fmt.Sprint(first["x-data-bin"]) != "[\x00\x01\xfe]" || fmt.Sprint(last["x-sum-bin"]) != "[\x00\xff]" {
		t.Errorf("metadata: header %q, trailer %q", first, last)
	}
	told := up.saw()
	if fmt.Sprint(told["x-gatehouse-user"]) != "[demo-app]" || len(told["x_gatehouse_groups"]) > 0 || fmt.Sprint(told["x-forwarded-for"]) != "[127.0.0.1]" {
		t.Errorf("the upstream is told %q", told)
	}
	if auth := told["authorization"]; len(auth) != 1 || claims(t, strings.TrimPrefix(auth[0], "Bearer "))["aud"] != "demo-api" || header(t, strings.TrimPrefix(auth[0], "Bearer "))["typ"] != "at+jwt" {
		t.Errorf("the upstream's token: %q", auth)
	}

	// A stream from the server: each message comes when it was sent.
	var sizes []*rpc.ResponseParameters
	for i := range 200 {
		sizes = append(sizes, &rpc.ResponseParameters{Size: int32(i * 100)})
	}
	down, err := c.StreamingOutputCall(ctx, &rpc.StreamingOutputCallRequest{ResponseParameters: sizes})
	if err != nil {
		t.Fatal(err)
	}
	for i := range sizes {
		if m, err := down.Recv(); err != nil || len(m.GetPayload().GetBody()) != i*100 {
			t.Fatalf("message %d: %d bytes, %v", i, len(m.GetPayload().GetBody()), err)
		}
	}
	if _, err := down.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the end of the server's stream: %v", err)
	}

	// A stream from the client: the first is there before the second is sent.
	in, err := c.StreamingInputCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := in.Send(&rpc.StreamingInputCallRequest{Payload: &rpc.Payload{Body: make([]byte, 1000)}}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-up.arrived:
		case <-ctx.Done():
			t.Fatalf("message %d did not arrive while the stream is open", i)
		}
	}
	if sum, err := in.CloseAndRecv(); err != nil || sum.GetAggregatedPayloadSize() != 20_000 {
		t.Errorf("the client's stream: %v, %v", sum, err)
	}

	// Both ways, in turns; the header comes before any message.
	both, err := c.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if md, err := both.Header(); err != nil || fmt.Sprint(md["x-first"]) != "[before any message]" {
		t.Errorf("the header: %v, %v", md, err)
	}
	for i := range 50 {
		body := []byte(strings.Repeat("y", i*1000))
		if err := both.Send(&rpc.StreamingOutputCallRequest{Payload: &rpc.Payload{Body: body}}); err != nil {
			t.Fatal(err)
		}
		if m, err := both.Recv(); err != nil || len(m.GetPayload().GetBody()) != len(body) {
			t.Fatalf("turn %d: %v", i, err)
		}
	}
	if err := both.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := both.Recv(); !errors.Is(err, io.EOF) || fmt.Sprint(both.Trailer()["x-last"]) != "[after all]" {
		t.Errorf("the end of both: %v, %v", err, both.Trailer())
	}
}

// endRPC ends calls in each way that they end.
func endRPC(t *testing.T, c rpc.TestServiceClient, up *rpcServer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// A status without a message, which is trailers alone.
	_, err := c.UnaryCall(ctx, &rpc.SimpleRequest{ResponseStatus: &rpc.EchoStatus{Code: int32(codes.FailedPrecondition), Message: "\t100 % of 你好\n"}})
	if s := rpcstatus.Convert(err); s.Code() != codes.FailedPrecondition || s.Message() != "\t100 % of 你好\n" {
		t.Errorf("an error: %v", err)
	}
	if _, err := c.UnimplementedCall(ctx, &rpc.Empty{}); rpcstatus.Code(err) != codes.Unimplemented {
		t.Errorf("a method that is not there: %v", err)
	}
	// The server ends the call while the client is not done.
	both, err := c.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := both.Send(&rpc.StreamingOutputCallRequest{ResponseStatus: &rpc.EchoStatus{Code: int32(codes.ResourceExhausted), Message: "enough"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := both.Recv(); rpcstatus.Code(err) != codes.ResourceExhausted {
		t.Errorf("ended by the server: %v", err)
	}
	// A deadline is the upstream's, too, and ends there.
	short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	// Where the upstream's clock is first it resets the stream, which is our 502.
	if _, err := c.UnaryCall(short, &rpc.SimpleRequest{}); rpcstatus.Code(err) != codes.DeadlineExceeded && rpcstatus.Code(err) != codes.Unavailable {
		t.Errorf("a deadline: %v", err)
	}
	up.over(t, "a deadline")
	// A call that is cancelled is cancelled upstream: unary, while receiving, and
	// in the middle of both.
	gone, stop := context.WithCancel(ctx)
	time.AfterFunc(200*time.Millisecond, stop)
	if _, err := c.UnaryCall(gone, &rpc.SimpleRequest{}); rpcstatus.Code(err) != codes.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	up.over(t, "a cancelled call")
	gone, stop = context.WithCancel(ctx)
	down, err := c.StreamingOutputCall(gone, &rpc.StreamingOutputCallRequest{ResponseParameters: []*rpc.ResponseParameters{{Size: 10}}, Payload: &rpc.Payload{}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := down.Recv(); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := down.Recv(); rpcstatus.Code(err) != codes.Canceled {
		t.Errorf("cancelled after the first message: %v", err)
	}
	up.over(t, "a cancelled stream")
	gone, stop = context.WithCancel(ctx)
	if both, err = c.FullDuplexCall(gone); err != nil {
		t.Fatal(err)
	}
	if _, err := both.Header(); err != nil {
		t.Fatal(err)
	}
	stop()
	up.over(t, "a cancelled conversation")
}

// refusedRPC wants of the gateway's own refusals what gRPC makes of their status
// (its HTTP to gRPC mapping).
func refusedRPC(t *testing.T, h *harness) {
	t.Helper()
	good := h.service("deployments:write")
	for name, c := range map[string]struct {
		host, token string
		code        codes.Code
	}{
		"no such token":            {"tls.localhost", "nonsense", codes.Unauthenticated},
		"no permission":            {"admins.localhost", good, codes.PermissionDenied},
		"an upstream that is down": {"down.localhost", good, codes.Unavailable},
	} {
		var at peer.Peer
		_, err := h.dialRPC(h.host, c.host, c.token).UnaryCall(t.Context(), payload("x"), grpc.Peer(&at))
		if rpcstatus.Code(err) != c.code {
			t.Errorf("%s: %v, want %v", name, err, c.code)
		}
	}
}
