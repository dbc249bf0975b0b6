package main

import (
	"context"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"
)

type call struct {
	At     float64 `json:"at"` // Unix time of its start
	Took   float64 `json:"took"`
	Heard  float64 `json:"heard,omitempty"` // Unix time of the last byte of the answer: an end is heard of later, a second for each proxy
	Status int     `json:"status,omitempty"`
	Pod    string  `json:"pod,omitempty"`
	Reused bool    `json:"reused,omitempty"`
	Body   string  `json:"body,omitempty"`
	Error  string  `json:"error,omitempty"`
}

var tellBegun bool

func load(args []string) {
	f := flag.NewFlagSet("load", flag.ExitOnError)
	to := f.String("to", "", "address to dial instead of the URL's host")
	rate := f.Float64("rate", 10, "calls a second, over all connections")
	connections := f.Int("connections", 1, "how many are kept")
	n := f.Int("n", 0, "calls in all; 0: until the time is over")
	lasting := f.Duration("for", 10*time.Second, "how long")
	timeout := f.Duration("timeout", 5*time.Second, "of one call")
	method := f.String("method", "GET", "")
	payload := f.String("body", "", "what is sent")
	h2c := f.Bool("h2c", false, "HTTP/2 without TLS")
	bodies := f.Bool("bodies", false, "tell of the answers' bodies")
	headers := f.String("headers", "", "a=b,c=d")
	f.BoolVar(&tellBegun, "begun", false, "tell when an answer begins")
	f.Parse(args[1:])

	start := time.Now()
	every := time.Duration(float64(time.Second) * float64(*connections) / *rate)
	var group sync.WaitGroup
	for i := range *connections {
		group.Add(1)
		go func() {
			defer group.Done()
			client := client(*to, *h2c)
			next := start.Add(every * time.Duration(i) / time.Duration(*connections))
			for k := i; (*n == 0 || k < *n) && time.Since(start) < *lasting; k += *connections {
				time.Sleep(time.Until(next))
				next = next.Add(every)
				c := one(client, *method, args[0], *payload, *headers, *timeout)
				if !*bodies {
					c.Body = ""
				}
				tell(c)
			}
		}()
	}
	group.Wait()
}

// A client of one connection of its own, which is kept.
func client(to string, h2c bool) *http.Client {
	transport := &http.Transport{MaxConnsPerHost: 1, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		if to != "" {
			address = to
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
	if h2c {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// Notes when the last byte came.
type listener struct {
	io.Reader
	heard *float64
}

func (l listener) Read(into []byte) (int, error) {
	n, err := l.Reader.Read(into)
	if n > 0 {
		*l.heard = float64(time.Now().UnixNano()) / 1e9
	}
	return n, err
}

func one(client *http.Client, method, url, payload, headers string, timeout time.Duration) (c call) {
	started := time.Now()
	c.At = float64(started.UnixNano()) / 1e9
	defer func() { c.Took = time.Since(started).Seconds() }()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { c.Reused = i.Reused }})
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(payload))
	if err != nil {
		fatal("%v", err)
	}
	for k, v := range pairs(strings.FieldsFunc(headers, func(r rune) bool { return r == ',' })) {
		request.Header.Set(k, v)
		if strings.EqualFold(k, "host") {
			request.Host = v
		}
	}
	response, err := client.Do(request)
	if err != nil {
		c.Error = err.Error()
		return
	}
	if tellBegun {
		tell(map[string]any{"begun": true, "status": response.StatusCode})
	}
	body, err := io.ReadAll(listener{response.Body, &c.Heard})
	response.Body.Close()
	c.Status, c.Pod, c.Body = response.StatusCode, response.Header.Get("x-pod"), string(body)
	if err != nil {
		c.Error = err.Error()
	}
	return
}
