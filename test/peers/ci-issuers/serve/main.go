// Serve runs the issuers of package ciissuers on this machine, to try trust rules
// and pipelines by hand against `gatehouse serve --dev`:
//
//	go run ./test/peers/ci-issuers/serve
//	curl -s -d '{"aud": "http://127.0.0.1:8080"}' http://127.0.0.1:7180/control/gitlab_ci/mint
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	ciissuers "github.com/remotegpu/gatehouse/test/peers/ci-issuers"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:7180", "loopback address")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *listen); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, listen string) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	site, err := ciissuers.NewSite("http://" + l.Addr().String())
	if err != nil {
		return err
	}
	url, token := site.Runner()
	fmt.Printf("GITHUB_ISSUER=%s\nGITLAB_ISSUER=%s\nJENKINS_ISSUER=%s\nACTIONS_ID_TOKEN_REQUEST_URL='%s'\nACTIONS_ID_TOKEN_REQUEST_TOKEN=%s\n", site.GitHub.URL, site.GitLab.URL, site.Jenkins.URL, url, token)
	srv := &http.Server{Handler: site, ReadHeaderTimeout: 5 * time.Second}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}
