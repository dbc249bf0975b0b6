// The lab's application: the servers that are called, and the clients that call. One binary for both, so that a test
// needs no other tool inside a pod.
//
//	labapp serve NAME [http=8080] [h2c=8081] [grpc=9000] [tcp=7000] [greet=7001]
//	labapp load  URL [flags]     calls again and again, and tells of each call
//	labapp ws    URL             one WebSocket, a few messages
//	labapp grpc  ADDR [flags]    unary calls, or a stream
//	labapp tcp   ADDR [flags]    client first (echo) or server first (greeting)
//
// What is told goes to stdout, a JSON object a line.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
)

var out sync.Mutex

func tell(v any) {
	out.Lock()
	defer out.Unlock()
	line, err := json.Marshal(v)
	if err != nil {
		fatal("%v", err)
	}
	os.Stdout.Write(append(line, '\n'))
}

func fatal(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "labapp: "+format+"\n", args...)
	os.Exit(2)
}

func main() {
	if len(os.Args) < 3 {
		fatal("usage: labapp serve|load|ws|grpc|tcp ...")
	}
	command, args := os.Args[1], os.Args[2:]
	switch command {
	case "serve":
		serve(args[0], pairs(args[1:]))
	case "load":
		load(args)
	case "ws":
		webSocket(args)
	case "grpc":
		callGRPC(args)
	case "tcp":
		callTCP(args)
	default:
		fatal("no command is named %q", command)
	}
}

func pairs(args []string) map[string]string {
	m := map[string]string{}
	for _, a := range args {
		k, v, _ := strings.Cut(a, "=")
		m[k] = v
	}
	return m
}
