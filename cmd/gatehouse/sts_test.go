package main

import (
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/remotegpu/gatehouse/test/peers/cloudsts"
)

// sts ISSUER ADDRESS ROLE stands in for Amazon's token service until it is ended.
func sts() int {
	s := &cloudsts.Service{Vendor: "aws", Issuer: os.Args[1], Audience: "sts.amazonaws.com", Role: os.Args[3], Now: time.Now}
	srv := &http.Server{Addr: os.Args[2], Handler: s, ReadHeaderTimeout: 5 * time.Second}
	fmt.Fprintln(os.Stderr, srv.ListenAndServe())
	return exitFailed
}
