package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func serve(name string, ports map[string]string) {
	failed := make(chan error)
	for kind, port := range ports {
		listener, err := net.Listen("tcp", ":"+port)
		if err != nil {
			fatal("%s: %v", kind, err)
		}
		go func() {
			switch {
			case strings.HasPrefix(kind, "http"), strings.HasPrefix(kind, "h2c"):
				protocols := new(http.Protocols)
				protocols.SetHTTP1(true)
				protocols.SetUnencryptedHTTP2(true)
				failed <- (&http.Server{Handler: echo{name, port}, Protocols: protocols}).Serve(listener)
			case strings.HasPrefix(kind, "grpc"):
				server := grpc.NewServer()
				server.RegisterService(&echoService, echo{name, port})
				failed <- server.Serve(listener)
			case strings.HasPrefix(kind, "tcp"):
				failed <- accept(listener, func(c net.Conn) { io.Copy(c, c) })
			case strings.HasPrefix(kind, "greet"):
				failed <- accept(listener, func(c net.Conn) {
					fmt.Fprintf(c, "hello from %s\n", name)
					io.Copy(c, c)
				})
			default:
				failed <- fmt.Errorf("no protocol is named %q", kind)
			}
		}()
	}
	fatal("%v", <-failed)
}

func accept(listener net.Listener, talk func(net.Conn)) error {
	for {
		c, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() { defer c.Close(); talk(c) }()
	}
}

// echo answers any request with a JSON account of it. /delay/S waits S seconds, /status/N answers N, /slow/N/S sends N
// pieces, one each S seconds, /ws is a WebSocket that echoes.
type echo struct{ name, port string }

func (e echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	code := http.StatusOK
	switch {
	case parts[0] == "delay" && len(parts) > 1:
		time.Sleep(seconds(parts[1]))
	case parts[0] == "status" && len(parts) > 1:
		code, _ = strconv.Atoi(parts[1])
	case parts[0] == "slow" && len(parts) > 2:
		n, _ := strconv.Atoi(parts[1])
		for i := range n {
			fmt.Fprintln(w, i)
			w.(http.Flusher).Flush()
			time.Sleep(seconds(parts[2]))
		}
		return
	case parts[0] == "ws":
		e.webSocket(w, r)
		return
	}
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	headers := map[string]string{"host": r.Host}
	for k, v := range r.Header {
		headers[strings.ToLower(k)] = strings.Join(v, ",")
	}
	w.Header().Set("content-type", "application/json")
	w.Header().Set("x-pod", e.name)
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]any{
		"pod": e.name, "port": e.port, "method": r.Method, "path": r.URL.RequestURI(), "proto": r.Proto,
		"headers": headers, "body": string(body),
	})
}

func seconds(s string) time.Duration {
	f, _ := strconv.ParseFloat(s, 64)
	return time.Duration(f * float64(time.Second))
}

func (e echo) webSocket(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("upgrade"), "websocket") {
		http.Error(w, "not a WebSocket", http.StatusBadRequest)
		return
	}
	c, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		acceptKey(r.Header.Get("sec-websocket-key")))
	for {
		text, err := readFrame(rw.Reader)
		if err != nil {
			return
		}
		if writeFrame(c, e.name+": "+text, false) != nil {
			return
		}
	}
}

// The echo service, without a generated stub: two methods over well-known types.
type echoServer interface {
	say(context.Context, string) (string, error)
}

// A word that begins with "fail" is answered with that error; "sleep N" waits.
func (e echo) say(ctx context.Context, word string) (string, error) {
	if n, ok := strings.CutPrefix(word, "sleep "); ok {
		select {
		case <-time.After(seconds(n)):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	if strings.HasPrefix(word, "fail") {
		return "", status.Error(codes.FailedPrecondition, word)
	}
	return e.name + ": " + word, nil
}

var echoService = grpc.ServiceDesc{
	ServiceName: "lab.Echo",
	HandlerType: (*echoServer)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Say", Handler: func(s any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := new(wrapperspb.StringValue)
		if err := decode(in); err != nil {
			return nil, err
		}
		answer, err := s.(echoServer).say(ctx, in.Value)
		return wrapperspb.String(answer), err
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Talk", ServerStreams: true, ClientStreams: true, Handler: func(s any, stream grpc.ServerStream) error {
		for {
			in := new(wrapperspb.StringValue)
			if err := stream.RecvMsg(in); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			answer, err := s.(echoServer).say(stream.Context(), in.Value)
			if err != nil {
				return err
			}
			if err := stream.SendMsg(wrapperspb.String(answer)); err != nil {
				return err
			}
		}
	}}},
}
