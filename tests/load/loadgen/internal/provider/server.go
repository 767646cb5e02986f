package provider

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"parley.dev/loadgen/internal/clock"
	"parley.dev/loadgen/internal/meter"
	"parley.dev/loadgen/internal/wire"
)

// handshakeTimeout bounds TLS and the upgrade, besides the delay that is asked for.
const handshakeTimeout = 30 * time.Second

// A Server takes workers' connections.
type Server struct {
	Registry *meter.Registry
	Wheel    *clock.Wheel
	// Raw keeps a log of every connection made from then on.
	Raw atomic.Bool

	settings atomic.Pointer[Settings]
	next     atomic.Int64
	open     atomic.Int64
	mu       sync.Mutex
	logs     []*Log
}

// Settings gives those in force; they are never changed in place.
func (s *Server) Settings() *Settings { return s.settings.Load() }

// Set puts others in force.
func (s *Server) Set(settings Settings) { s.settings.Store(&settings) }

// Open is how many connections there are.
func (s *Server) Open() int64 { return s.open.Load() }

// Listen opens the port; certificate and key are files, or both empty for plain TCP.
func Listen(address, certificate, key string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil || certificate == "" {
		return listener, err
	}
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		listener.Close()
		return nil, err
	}
	// Whole records from the start: the program measures workers, not how soon a browser paints.
	return tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{pair}, DynamicRecordSizingDisabled: true}), nil
}

// Serve takes connections until the listener is closed.
func (s *Server) Serve(listener net.Listener) error {
	for {
		socket, err := listener.Accept()
		if err != nil {
			return err
		}
		go s.serve(socket)
	}
}

func (s *Server) serve(socket net.Conn) {
	c := &conn{server: s, socket: socket, id: s.next.Add(1) - 1, news: make(chan struct{}, 1)}
	delay := time.Duration(s.Settings().ConnectDelay)
	_ = socket.SetDeadline(time.Now().Add(handshakeTimeout + delay))
	early, err := wire.Accept(socket, func() { time.Sleep(delay) })
	if err != nil {
		socket.Close()
		return
	}
	_ = socket.SetDeadline(time.Time{})
	if s.Raw.Load() {
		c.log = newLog(c.id)
		s.mu.Lock()
		s.logs = append(s.logs, c.log)
		s.mu.Unlock()
	}
	c.shard().Add(meter.ProviderConnections, 1)
	s.open.Add(1)
	defer s.open.Add(-1)
	if err := c.serve(early); errors.Is(err, wire.ErrFraming) || errors.Is(err, wire.ErrTooBig) {
		c.shard().Add(meter.ProviderErrors, 1)
	} else if err != nil && !errors.Is(err, io.EOF) {
		_ = socket.Close()
	}
}

// WriteLogs writes the logs of all connections into a folder.
func (s *Server) WriteLogs(folder string) (int, error) {
	s.mu.Lock()
	logs := append([]*Log(nil), s.logs...)
	s.mu.Unlock()
	for _, l := range logs {
		if err := l.write(folder); err != nil {
			return 0, err
		}
	}
	return len(logs), nil
}
