package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// As much of RFC 6455 as an echo of short texts needs.

func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func readFrame(r *bufio.Reader) (string, error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil {
		return "", err
	}
	if head[0]&0x0f != 1 || head[1]&0x7f > 125 {
		return "", fmt.Errorf("a frame that is no short text")
	}
	mask := make([]byte, 4)
	if head[1]&0x80 != 0 {
		if _, err := io.ReadFull(r, mask); err != nil {
			return "", err
		}
	}
	text := make([]byte, head[1]&0x7f)
	if _, err := io.ReadFull(r, text); err != nil {
		return "", err
	}
	for i := range text {
		text[i] ^= mask[i%4]
	}
	return string(text), nil
}

func writeFrame(w io.Writer, text string, masked bool) error {
	text = text[:min(len(text), 125)]
	frame := []byte{0x81, byte(len(text))}
	if masked { // with a mask of zeroes
		frame[1] |= 0x80
		frame = append(frame, 0, 0, 0, 0)
	}
	_, err := w.Write(append(frame, text...))
	return err
}

func webSocket(args []string) {
	f := flag.NewFlagSet("ws", flag.ExitOnError)
	to := f.String("to", "", "address to dial instead of the URL's host")
	n := f.Int("n", 3, "messages")
	every := f.Duration("every", 0, "pause between messages")
	f.Parse(args[1:])
	u, err := url.Parse(args[0])
	if err != nil {
		fatal("%v", err)
	}
	address := u.Host
	if *to != "" {
		address = *to
	}
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		tell(map[string]any{"error": err.Error()})
		return
	}
	c.SetDeadline(time.Now().Add(10*time.Second + time.Duration(*n)**every))
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bGFi\r\n\r\n",
		u.RequestURI(), u.Host)
	r := bufio.NewReader(c)
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		tell(map[string]any{"error": err.Error()})
		return
	}
	tell(map[string]any{"status": response.StatusCode})
	if response.StatusCode != http.StatusSwitchingProtocols {
		return
	}
	start := time.Now()
	for i := range *n {
		err := writeFrame(c, fmt.Sprintf("message %d", i), true)
		text := ""
		if err == nil {
			text, err = readFrame(r)
		}
		if err != nil {
			tell(map[string]any{"error": err.Error(), "after": time.Since(start).Seconds()})
			return
		}
		tell(map[string]any{"text": text})
		time.Sleep(*every)
	}
}
