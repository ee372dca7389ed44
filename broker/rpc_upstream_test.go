package broker_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	rpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	rpcstatus "google.golang.org/grpc/status"
)

// rpcServer is an upstream that speaks gRPC, as the service that gRPC's own
// interoperability tests define.
type rpcServer struct {
	rpc.UnimplementedTestServiceServer
	mu      sync.Mutex
	told    metadata.MD   // of the last call
	arrived chan struct{} // one for each message of a client's stream
	ended   chan error    // why a call that waited for its end has ended
}

// startRPC serves gRPC over TLS with a certificate, without TLS if it is nil.
func startRPC(t *testing.T, cert *tls.Certificate) (*rpcServer, string) {
	t.Helper()
	l := listen(t, "127.0.0.1:0")
	var opts []grpc.ServerOption
	scheme := "http://"
	if cert != nil {
		scheme = "https://"
		opts = append(opts, grpc.Creds(credentials.NewServerTLSFromCert(cert)))
	}
	srv, s := grpc.NewServer(opts...), &rpcServer{arrived: make(chan struct{}, 100), ended: make(chan error, 10)}
	rpc.RegisterTestServiceServer(srv, s)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	return s, scheme + l.Addr().String()
}

func (s *rpcServer) note(ctx context.Context) {
	md, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = md
}

func (s *rpcServer) saw() metadata.MD {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told
}

// wait ends when the call does.
func (s *rpcServer) wait(ctx context.Context) error {
	<-ctx.Done()
	s.ended <- ctx.Err()
	return rpcstatus.FromContextError(ctx.Err()).Err()
}

// UnaryCall echoes the payload, or fails as it is told; an empty request waits
// for its end.
func (s *rpcServer) UnaryCall(ctx context.Context, in *rpc.SimpleRequest) (*rpc.SimpleResponse, error) {
	s.note(ctx)
	if st := in.GetResponseStatus(); st != nil {
		return nil, rpcstatus.Error(codes.Code(st.GetCode()), st.GetMessage()) // trailers alone
	}
	if in.GetPayload() == nil {
		return nil, s.wait(ctx)
	}
	md := s.saw()
	_ = grpc.SetHeader(ctx, metadata.MD{"x-first": md["x-echo"], "x-data-bin": md["x-data-bin"]})
	_ = grpc.SetTrailer(ctx, metadata.MD{"x-last": md["x-echo"], "x-sum-bin": {"\x00\xff"}})
	return &rpc.SimpleResponse{Payload: in.GetPayload()}, nil
}

// StreamingOutputCall sends messages of the sizes it is asked for, then waits for
// the end if the request has a payload.
func (s *rpcServer) StreamingOutputCall(in *rpc.StreamingOutputCallRequest, out rpc.TestService_StreamingOutputCallServer) error {
	s.note(out.Context())
	for _, p := range in.GetResponseParameters() {
		if err := out.Send(&rpc.StreamingOutputCallResponse{Payload: &rpc.Payload{Body: make([]byte, p.GetSize())}}); err != nil {
			return err
		}
	}
	if in.GetPayload() != nil {
		return s.wait(out.Context())
	}
	return nil
}

// StreamingInputCall counts bytes, and tells of each message as it comes.
func (s *rpcServer) StreamingInputCall(in rpc.TestService_StreamingInputCallServer) error {
	s.note(in.Context())
	var sum int32
	for {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return in.SendAndClose(&rpc.StreamingInputCallResponse{AggregatedPayloadSize: sum})
		}
		if err != nil {
			return err
		}
		sum += int32(len(m.GetPayload().GetBody()))
		s.arrived <- struct{}{}
	}
}

// FullDuplexCall echoes each message before the next one comes, and may end the
// call while the client is still sending.
func (s *rpcServer) FullDuplexCall(both rpc.TestService_FullDuplexCallServer) error {
	s.note(both.Context())
	if err := both.SendHeader(metadata.Pairs("x-first", "before any message")); err != nil {
		return err
	}
	for {
		m, err := both.Recv()
		if errors.Is(err, io.EOF) {
			both.SetTrailer(metadata.Pairs("x-last", "after all"))
			return nil
		}
		if err != nil {
			s.ended <- err
			return err
		}
		if st := m.GetResponseStatus(); st != nil {
			return rpcstatus.Error(codes.Code(st.GetCode()), st.GetMessage())
		}
		if err := both.Send(&rpc.StreamingOutputCallResponse{Payload: m.GetPayload()}); err != nil {
			return err
		}
	}
}

// over waits until the upstream has seen the end of a call.
func (s *rpcServer) over(t *testing.T, what string) {
	t.Helper()
	select {
	case <-s.ended:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s goes on at the upstream", what)
	}
}
