package wire

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// Opcodes of RFC 6455.
const (
	opContinue = 0
	Text       = 1
	Binary     = 2
	Close      = 8
	Ping       = 9
	Pong       = 10
)

// MaxMessage bounds what a peer may send in one message.
const MaxMessage = 16 << 20

// ErrTooBig says that a message passes MaxMessage; ErrFraming that the peer breaks RFC 6455.
var (
	ErrTooBig  = errors.New("a WebSocket message is longer than 16 MiB")
	ErrFraming = errors.New("the peer breaks the framing of RFC 6455")
)

// AppendFrame writes one unfragmented frame as a server sends it, the payload in parts.
func AppendFrame(b []byte, opcode byte, parts ...[]byte) []byte {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	b = appendHead(b, opcode, size, 0)
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// AppendMasked writes one frame as a client sends it. The mask is zero, which changes no byte: masks protect
// proxies between browsers and servers, and there is none here.
func AppendMasked(b []byte, opcode byte, parts ...[]byte) []byte {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	b = append(appendHead(b, opcode, size, 0x80), 0, 0, 0, 0)
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func appendHead(b []byte, opcode byte, size int, mask byte) []byte {
	switch {
	case size < 126:
		return append(b, 0x80|opcode, mask|byte(size))
	case size < 1<<16:
		return append(b, 0x80|opcode, mask|126, byte(size>>8), byte(size))
	}
	return binary.BigEndian.AppendUint64(append(b, 0x80|opcode, mask|127), uint64(size))
}

// Reader reads messages from one side of a WebSocket, with one buffer that grows to the largest frame.
type Reader struct {
	src        io.Reader
	buf        []byte
	from, upto int
	whole      []byte // of a fragmented message
	opcode     byte
}

// NewReader reads from src; `early` is what was read of it already.
func NewReader(src io.Reader, early []byte) *Reader {
	r := &Reader{src: src, buf: make([]byte, max(4096, len(early)))}
	r.upto = copy(r.buf, early)
	return r
}

// Next gives the next message, unmasked, good until the next call. Control frames come between the fragments of
// a message, as RFC 6455 allows.
func (r *Reader) Next() (opcode byte, payload []byte, err error) {
	for {
		first, payload, err := r.frame()
		if err != nil {
			return 0, nil, err
		}
		opcode, final := first&15, first&0x80 != 0
		switch {
		case first&0x70 != 0:
			return 0, nil, ErrFraming
		case opcode >= Close:
			return opcode, payload, nil
		case opcode != opContinue && final && r.opcode == 0:
			return opcode, payload, nil
		case (opcode == opContinue) == (r.opcode == 0):
			return 0, nil, ErrFraming
		}
		if opcode != opContinue {
			r.opcode, r.whole = opcode, r.whole[:0]
		}
		if len(r.whole)+len(payload) > MaxMessage {
			return 0, nil, ErrTooBig
		}
		r.whole = append(r.whole, payload...)
		if final {
			opcode, r.opcode = r.opcode, 0
			return opcode, r.whole, nil
		}
	}
}

func (r *Reader) frame() (first byte, payload []byte, err error) {
	if err = r.need(2); err != nil {
		return 0, nil, err
	}
	first, second := r.buf[r.from], r.buf[r.from+1]
	head, size := 2, int(second&0x7f)
	switch size {
	case 126:
		head = 4
	case 127:
		head = 10
	}
	if second&0x80 != 0 {
		head += 4
	}
	if err = r.need(head); err != nil {
		return 0, nil, err
	}
	b := r.buf[r.from:]
	switch size {
	case 126:
		size = int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		long := binary.BigEndian.Uint64(b[2:])
		if long > MaxMessage {
			return 0, nil, ErrTooBig
		}
		size = int(long)
	}
	if err = r.need(head + size); err != nil {
		return 0, nil, err
	}
	payload = r.buf[r.from+head : r.from+head+size]
	if second&0x80 != 0 {
		unmask(payload, [4]byte(r.buf[r.from+head-4:]))
	}
	r.from += head + size
	return first, payload, nil
}

// need makes sure that n bytes are there, in one piece.
func (r *Reader) need(n int) error {
	if r.from == r.upto {
		r.from, r.upto = 0, 0
	}
	if r.upto-r.from >= n {
		return nil
	}
	if r.from+n > len(r.buf) {
		into := r.buf
		if n > len(r.buf) {
			into = make([]byte, n+n/2)
		}
		r.upto = copy(into, r.buf[r.from:r.upto])
		r.buf, r.from = into, 0
	}
	for r.upto-r.from < n {
		got, err := r.src.Read(r.buf[r.upto:])
		r.upto += got
		if err != nil && r.upto-r.from < n {
			return err
		}
	}
	return nil
}

func unmask(b []byte, key [4]byte) {
	word := uint64(binary.LittleEndian.Uint32(key[:]))
	if word == 0 {
		return
	}
	word |= word << 32
	i := 0
	for ; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], binary.LittleEndian.Uint64(b[i:])^word)
	}
	for ; i < len(b); i++ {
		b[i] ^= key[i&3]
	}
}

func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Accept takes a client's handshake: it answers after `before` (which may wait), or with an error. What the client
// sent too early is given.
func Accept(conn net.Conn, before func()) (early []byte, err error) {
	in := bufio.NewReaderSize(conn, 4096)
	request, err := http.ReadRequest(in)
	if err != nil {
		return nil, err
	}
	key := request.Header.Get("Sec-WebSocket-Key")
	if key == "" {
		_, _ = io.WriteString(conn, "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n")
		return nil, fmt.Errorf("%s %s is no WebSocket handshake", request.Method, request.URL.Path)
	}
	before()
	if _, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\n\r\n", acceptKey(key)); err != nil {
		return nil, err
	}
	early, _ = in.Peek(in.Buffered())
	return early, nil
}

// Open makes a client's handshake. What the server sent right behind its answer is given.
func Open(conn net.Conn, u *url.URL) (early []byte, err error) {
	const key = "cGFybGV5LWxvYWRnZW4tMQ=="
	if _, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", u.RequestURI(), u.Host, key); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(conn, 4096)
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("the WebSocket handshake was answered with %s", response.Status)
	}
	if response.Header.Get("Sec-WebSocket-Accept") != acceptKey(key) {
		return nil, errors.New("the WebSocket handshake was answered with a wrong Sec-WebSocket-Accept")
	}
	early, _ = in.Peek(in.Buffered())
	return early, nil
}
