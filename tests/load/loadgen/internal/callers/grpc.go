package callers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// rawCodec passes bytes: what is sent is a mem.BufferSlice, what receives is a receiver.
type rawCodec struct{}

// receiver takes one message, which is gone when it returns.
type receiver func(message []byte) error

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) { return v.(mem.BufferSlice), nil }

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	take := v.(receiver)
	if len(data) == 1 {
		return take(data[0].ReadOnlyData())
	}
	whole := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer whole.Free()
	return take(whole.ReadOnlyData())
}

// bufferPool keeps the buffers of shared streams' messages, which gRPC gives back when they are written.
type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get(length int) *[]byte {
	if b, ok := p.pool.Get().(*[]byte); ok && cap(*b) >= length {
		*b = (*b)[:length]
		return b
	}
	b := make([]byte, length, length+length/4)
	return &b
}

func (p *bufferPool) Put(b *[]byte) { p.pool.Put(b) }

var buffers bufferPool

func bytesMessage(b []byte) mem.BufferSlice { return mem.BufferSlice{mem.SliceBuffer(b)} }

// Target says how a worker is reached.
type Target struct {
	Endpoint string
	CA       string // file; empty for plaintext
	Name     string // in the worker's certificate; empty for the endpoint's host
}

// tlsConfig is nil for plaintext.
func (t Target) tlsConfig() (*tls.Config, error) {
	if t.CA == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls_ca %s holds no certificate: give a file of PEM", t.CA)
	}
	return &tls.Config{RootCAs: pool, ServerName: t.Name}, nil
}

func (t Target) dial() (*grpc.ClientConn, error) {
	config, err := t.tlsConfig()
	if err != nil {
		return nil, err
	}
	secured := insecure.NewCredentials()
	if config != nil {
		secured = credentials.NewTLS(config)
	}
	return grpc.NewClient("passthrough:///"+t.Endpoint, grpc.WithTransportCredentials(secured), grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(), grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(8<<20),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(64<<20)))
}

// channels shares connections: a fixed number for each target.
type channels struct {
	mu    sync.Mutex
	conns map[Target][]*grpc.ClientConn
	used  map[Target]int
}

// get gives the target's next connection of `size`, in turn.
func (c *channels) get(t Target, size int) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns == nil {
		c.conns, c.used = map[Target][]*grpc.ClientConn{}, map[Target]int{}
	}
	n := c.used[t]
	c.used[t]++
	if len(c.conns[t]) < size {
		conn, err := t.dial()
		if err != nil {
			return nil, err
		}
		c.conns[t] = append(c.conns[t], conn)
		return conn, nil
	}
	return c.conns[t][n%size], nil
}

var bidirectional = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

// verdict gives the status and the worker's word for why a stream ended; err is nil or io.EOF for a good end.
func verdict(stream grpc.ClientStream, err error) (code, reason string) {
	if errors.Is(err, io.EOF) {
		return "OK", ""
	}
	s, _ := status.FromError(err)
	if errors.Is(err, context.Canceled) {
		return "CANCELLED", "cancelled"
	}
	reason = s.Message()
	if words := trailer(stream).Get("parley-reason"); len(words) > 0 {
		reason = words[0]
	}
	return codeName(uint32(s.Code())), reason
}

func trailer(stream grpc.ClientStream) metadata.MD {
	if stream == nil {
		return nil
	}
	return stream.Trailer()
}

// codeNames are gRPC's own names of its status codes.
var codeNames = []string{"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL",
	"UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}

func codeName(code uint32) string {
	if int(code) < len(codeNames) {
		return codeNames[code]
	}
	return fmt.Sprint(code)
}
