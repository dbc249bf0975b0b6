package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func callGRPC(args []string) {
	f := flag.NewFlagSet("grpc", flag.ExitOnError)
	authority := f.String("authority", "", "the name that is called; default: the address")
	n := f.Int("n", 1, "calls, or messages of the stream")
	every := f.Duration("every", 0, "pause between them")
	stream := f.Bool("stream", false, "one stream instead of calls")
	word := f.String("say", "hello", "")
	timeout := f.Duration("timeout", 5*time.Second, "of one call, or of the whole stream")
	f.Parse(args[1:])
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if *authority != "" {
		options = append(options, grpc.WithAuthority(*authority))
	}
	c, err := grpc.NewClient("passthrough:///"+args[0], options...)
	if err != nil {
		fatal("%v", err)
	}
	report := func(started time.Time, answer string, err error) {
		told := map[string]any{"at": float64(started.UnixNano()) / 1e9, "took": time.Since(started).Seconds()}
		if err != nil {
			told["code"], told["error"] = status.Code(err).String(), err.Error()
		} else {
			told["code"], told["text"] = "OK", answer
		}
		tell(told)
	}
	if !*stream {
		next := time.Now()
		for range *n {
			time.Sleep(time.Until(next))
			next = next.Add(*every)
			ctx, cancel := context.WithTimeout(context.Background(), *timeout)
			started, answer := time.Now(), new(wrapperspb.StringValue)
			err := c.Invoke(ctx, "/lab.Echo/Say", wrapperspb.String(*word), answer)
			report(started, answer.Value, err)
			cancel()
		}
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	started := time.Now()
	s, err := c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/lab.Echo/Talk")
	for i := 0; err == nil && i < *n; i++ {
		answer := new(wrapperspb.StringValue)
		if err = s.SendMsg(wrapperspb.String(*word)); err == nil {
			err = s.RecvMsg(answer)
		} else {
			err = s.RecvMsg(answer) // tells why
		}
		report(started, answer.Value, err)
		if err == nil {
			time.Sleep(*every)
		}
	}
	if s == nil {
		report(started, "", err)
	}
}

func callTCP(args []string) {
	f := flag.NewFlagSet("tcp", flag.ExitOnError)
	greeting := f.Bool("greeting", false, "the server speaks first")
	n := f.Int("n", 1, "lines that are sent and expected back")
	every := f.Duration("every", 0, "pause between them")
	timeout := f.Duration("timeout", 5*time.Second, "for each answer")
	hold := f.Duration("hold", 0, "at the end, wait for so long whether the other end closes")
	f.Parse(args[1:])
	started := time.Now()
	report := func(text string, err error) bool {
		told := map[string]any{"after": time.Since(started).Seconds(), "at": float64(time.Now().UnixNano()) / 1e9}
		if err != nil {
			told["error"] = err.Error()
		} else {
			told["text"] = text
		}
		tell(told)
		return err == nil
	}
	c, err := net.DialTimeout("tcp", args[0], *timeout)
	if err != nil {
		report("", err)
		return
	}
	r := bufio.NewReader(c)
	read := func() bool {
		c.SetReadDeadline(time.Now().Add(*timeout))
		line, err := r.ReadString('\n')
		return report(line, err)
	}
	if *greeting && !read() {
		return
	}
	for i := range *n {
		if _, err := fmt.Fprintf(c, "line %d\n", i); err != nil {
			report("", err)
			return
		}
		if !read() {
			return
		}
		time.Sleep(*every)
	}
	if *hold > 0 {
		*timeout = *hold
		read()
	}
}
