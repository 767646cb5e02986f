package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/url"
	"testing"
	"testing/iotest"
)

// masked writes a frame as browsers do, with a mask that changes bytes.
func masked(first byte, payload []byte) []byte {
	key := [4]byte{1, 2, 3, 250}
	b := appendHead(nil, 0, len(payload), 0x80)
	b[0] = first
	b = append(b, key[:]...)
	for i, c := range payload {
		b = append(b, c^key[i%4])
	}
	return b
}

func TestMessagesOfEverySize(t *testing.T) {
	var stream []byte
	sizes := []int{0, 1, 7, 125, 126, 1290, 4096, 65535, 65536, 300000, 3}
	for _, n := range sizes {
		stream = append(stream, masked(0x81, bytes.Repeat([]byte{'x'}, n))...)
	}
	for name, src := range map[string]io.Reader{
		"whole": bytes.NewReader(stream), "halved": iotest.HalfReader(bytes.NewReader(stream)), "bytewise": iotest.OneByteReader(bytes.NewReader(stream)),
	} {
		r := NewReader(src, nil)
		for _, n := range sizes {
			opcode, payload, err := r.Next()
			if err != nil || opcode != Text || len(payload) != n || bytes.Count(payload, []byte{'x'}) != n {
				t.Fatalf("%s, %d bytes: %d, %d, %v", name, n, opcode, len(payload), err)
			}
		}
		if _, _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v at the end", name, err)
		}
	}
}

func TestWhatWasReadAlreadyComesFirst(t *testing.T) {
	frame := AppendFrame(nil, Binary, []byte("ab"), []byte("cd"))
	r := NewReader(bytes.NewReader(frame[3:]), frame[:3])
	if opcode, payload, err := r.Next(); err != nil || opcode != Binary || string(payload) != "abcd" {
		t.Errorf("%d %q %v", opcode, payload, err)
	}
}

func TestFragmentsWithAPingBetween(t *testing.T) {
	stream := masked(0x01, []byte("one "))
	stream = append(stream, masked(0x89, []byte("hi"))...)
	stream = append(stream, masked(0x00, []byte("two "))...)
	stream = append(stream, masked(0x80, []byte("three"))...)
	r := NewReader(bytes.NewReader(stream), nil)
	if opcode, payload, err := r.Next(); err != nil || opcode != Ping || string(payload) != "hi" {
		t.Fatalf("%d %q %v", opcode, payload, err)
	}
	if opcode, payload, err := r.Next(); err != nil || opcode != Text || string(payload) != "one two three" {
		t.Fatalf("%d %q %v", opcode, payload, err)
	}
}

func TestBrokenFraming(t *testing.T) {
	for name, c := range map[string]struct {
		stream []byte
		want   error
	}{
		"reserved bit":       {masked(0xc1, nil), ErrFraming},
		"lone continuation":  {masked(0x80, nil), ErrFraming},
		"nested message":     {append(masked(0x01, nil), masked(0x81, nil)...), ErrFraming},
		"too long":           {[]byte{0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0}, ErrTooBig},
		"ends in the middle": {masked(0x81, []byte("abc"))[:6], io.EOF},
	} {
		if _, _, err := NewReader(bytes.NewReader(c.stream), nil).Next(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAZeroMaskIsAMask(t *testing.T) {
	frame := AppendMasked(nil, Text, []byte("hel"), []byte("lo"))
	if frame[1] != 0x85 || !bytes.Equal(frame[2:6], []byte{0, 0, 0, 0}) {
		t.Fatalf("% x", frame)
	}
	if _, payload, err := NewReader(bytes.NewReader(frame), nil).Next(); err != nil || string(payload) != "hello" {
		t.Errorf("%q %v", payload, err)
	}
}

func TestHandshake(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	done := make(chan error, 1)
	waited := false
	go func() {
		_, err := Accept(server, func() { waited = true })
		if err == nil {
			_, err = server.Write(AppendFrame(nil, Text, []byte("first")))
		}
		done <- err
	}()
	early, err := Open(client, &url.URL{Scheme: "ws", Host: "localhost", Path: "/v1/realtime", RawQuery: "model=m"})
	if err != nil {
		t.Fatal(err)
	}
	if _, payload, err := NewReader(client, early).Next(); err != nil || string(payload) != "first" {
		t.Errorf("%q %v", payload, err)
	}
	if err := <-done; err != nil || !waited {
		t.Error(err, waited)
	}
}

func TestAPlainRequestIsToldToUpgrade(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	go func() {
		_, _ = client.Write([]byte("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))
		_, _ = io.Copy(io.Discard, client)
	}()
	if _, err := Accept(server, func() {}); err == nil {
		t.Error("taken for a WebSocket")
	}
}

func TestAcceptKey(t *testing.T) { // the example of RFC 6455, section 1.3
	if got := acceptKey("dGhlIHNhbXBsZSBub25jZQ=="); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Error(got)
	}
}
