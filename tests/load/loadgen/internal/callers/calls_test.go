package callers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"parley.dev/loadgen/internal/clock"
	"parley.dev/loadgen/internal/meter"
	"parley.dev/loadgen/internal/provider"
)

func TestMain(m *testing.M) {
	settleTimeout = 20 * time.Second // a starved machine is no lossy worker
	os.Exit(m.Run())
}

// A stage has the provider, a worker and the callers.
type stage struct {
	t      *testing.T
	worker *worker
	pool   *Pool
	server *provider.Server
	events chan map[string]any
}

func newStage(t *testing.T, secured credentials.TransportCredentials) *stage {
	t.Helper()
	registry := new(meter.Registry)
	wheel := clock.NewWheel(clock.Now(), func(int64) {})
	go wheel.Run()
	s := &stage{t: t, events: make(chan map[string]any, 100), server: &provider.Server{Registry: registry, Wheel: wheel}}
	s.server.Set(provider.Settings{Cycle: 1, AudioMillis: 400, ChunkMillis: 100, Speed: 2.5})
	listener, err := provider.Listen("127.0.0.1:0", "", "")
	if err != nil {
		t.Fatal(err)
	}
	go s.server.Serve(listener)
	s.worker = serve(t, listener.Addr().String(), secured)
	s.pool = &Pool{Registry: registry, Wheel: wheel, Conns: 1, Subticks: 4, Say: func(e map[string]any) { s.events <- e }}
	t.Cleanup(func() {
		s.worker.stop() // whoever is deaf ends now
		s.pool.StopAll()
		s.pool.Wait()
		listener.Close()
	})
	return s
}

func (s *stage) call(o Order) {
	s.t.Helper()
	if o.Endpoint == "" {
		o.Endpoint = s.worker.address
	}
	if err := s.pool.Call(o); err != nil {
		s.t.Fatal(err)
	}
}

// expect takes the next event, of that kind.
func (s *stage) expect(kind string) map[string]any {
	s.t.Helper()
	select {
	case e := <-s.events:
		if e["event"] != kind {
			s.t.Fatalf("%v instead of %s", e, kind)
		}
		return e
	case <-time.After(10 * time.Second):
		s.t.Fatalf("no %s came", kind)
	}
	return nil
}

func (s *stage) count() map[string]any {
	return s.pool.Registry.Meter.Snapshot().Since(new(meter.Snapshot))
}

// until waits for a counter to reach n.
func (s *stage) until(name string, n int64) {
	s.t.Helper()
	for range 1000 {
		if s.count()[name].(int64) >= n {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatalf("%s is %v and never became %d", name, s.count()[name], n)
}

func (s *stage) want(name string, n int64) {
	s.t.Helper()
	if got := s.count()[name]; got != n {
		s.t.Errorf("%s is %v, not %d", name, got, n)
	}
}

func TestCallsOverEveryTransport(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Order{
		"converse": {Transport: "converse"}, "converse, mu-law": {Transport: "converse", Format: "ulaw8"},
		"conversemany": {Transport: "conversemany"}, "floor": {Transport: "floor"}, "floor-many": {Transport: "floor-many"},
		"twilio": {Transport: "twilio", Format: "ulaw8"}, "twilio, pipecat": {Transport: "twilio", Ticket: "raw24"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, nil)
			for sid, uid := range []string{"0", "1", "2"} {
				o.Sid, o.SessionUID = int64(sid), uid
				if o.Transport == "twilio" {
					o.Endpoint = s.worker.phones
				}
				s.call(o)
				s.expect("started")
			}
			s.until("responses_complete", 4)
			if n := s.pool.Sessions(); n != 3 {
				t.Errorf("%d sessions", n)
			}
			s.pool.StopAll()
			for range 3 {
				if e := s.expect("ended"); e["status"] != "OK" {
					t.Errorf("%v", e)
				}
			}
			s.pool.Wait()
			c := s.count()
			for _, none := range []string{"drops_up", "drops_down", "repeats_up", "stray_frames", "provider_errors"} {
				s.want(none, 0)
			}
			if c["frames_sent"] != c["frames_at_provider"] || c["frames_sent"].(int64) < 100 {
				t.Errorf("%v of %v frames", c["frames_at_provider"], c["frames_sent"])
			}
		})
	}
}

func TestARefusedCallDoesNotEndTheOthers(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"converse", "conversemany"} {
		s := newStage(t, nil)
		s.call(Order{Sid: 1, Transport: transport, SessionUID: "1"})
		s.expect("started")
		s.call(Order{Sid: 2, Transport: transport, Ticket: "wrong"})
		if e := s.expect("refused"); e["status"] != "UNAUTHENTICATED" || e["reason"] != "ticket-unknown" {
			t.Errorf("%v", e)
		}
		s.until("responses_complete", 1)
		s.want("calls_refused", 1)
	}
}

func TestAWorkerThatIsNotThere(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	for _, transport := range []string{"converse", "conversemany", "floor", "floor-many"} {
		s.call(Order{Sid: 1, Transport: transport, Endpoint: "127.0.0.1:1"})
		if e := s.expect("refused"); e["status"] != "UNAVAILABLE" {
			t.Errorf("%v", e)
		}
		s.pool.Wait()
	}
}

func TestCallsThatEndBeforeTheyBegin(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"converse", "conversemany"} {
		s := newStage(t, nil)
		s.call(Order{Sid: 1, Transport: transport, Ticket: "vanish"})
		if e := s.expect("refused"); e["status"] != "ABORTED" || e["reason"] != "replaced" {
			t.Errorf("%v", e)
		}
		s.call(Order{Sid: 2, Transport: transport, Ticket: "mute"})
		time.Sleep(50 * time.Millisecond)
		_ = s.pool.Stop(2)
		if e := s.expect("refused"); e["status"] != "CANCELLED" {
			t.Errorf("%v", e)
		}
		s.pool.Wait()
		if n := s.pool.Sessions(); n != 0 {
			t.Errorf("%d sessions", n)
		}
	}
}

func TestAProviderThatIsLostAndComesBack(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	s.call(Order{Sid: 1, Transport: "converse", SessionUID: "1", Ticket: "move"})
	s.expect("started")
	s.until("provider_connections", 2)
	s.until("responses_complete", 1)
	_ = s.pool.Stop(1)
	s.expect("ended")
	c := s.count()
	lost := c["drops_up"].(int64)
	if lost < 5 || c["frames_sent"].(int64) != c["frames_at_provider"].(int64)+lost {
		t.Errorf("%d lost of %v, %v arrived", lost, c["frames_sent"], c["frames_at_provider"])
	}
}

func TestADeafWorkerHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	s.call(Order{Sid: 1, Transport: "converse", SessionUID: "1", Ticket: "deaf", Format: "ulaw8"})
	s.expect("started")
	s.call(Order{Sid: 2, Transport: "converse", SessionUID: "2"})
	s.expect("started")
	s.until("responses_complete", 2)
	_ = s.pool.Stop(2)
	if e := s.expect("ended"); e["status"] != "OK" || e["sid"] != int64(2) {
		t.Errorf("%v", e)
	}
}

func TestHangupAfter(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	s.call(Order{Sid: 1, Transport: "conversemany", SessionUID: "1", HangupAfter: 0.2})
	s.expect("started")
	if e := s.expect("ended"); e["reason"] != "CallerHangup" {
		t.Errorf("%v", e)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	certificate, file := authority(t)
	s := newStage(t, credentials.NewServerTLSFromCert(certificate))
	for i, transport := range []string{"converse", "conversemany"} {
		s.call(Order{Sid: int64(i), SessionUID: string(rune('0' + i)), Transport: transport, TLSCA: file, TLSName: "worker.test"})
		s.expect("started")
	}
	s.call(Order{Sid: 7, Transport: "converse", TLSCA: file, TLSName: "other.test"})
	if e := s.expect("refused"); e["status"] != "UNAVAILABLE" {
		t.Errorf("%v", e)
	}
	s.until("responses_complete", 2)
}

func TestOrdersThatCannotBeCarriedOut(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	for _, o := range []Order{{Transport: "converse"}, {Endpoint: "x", Format: "opus"}} {
		if s.pool.Call(o) == nil {
			t.Errorf("%+v is taken", o)
		}
	}
	for _, o := range []Order{{Transport: "smoke", Endpoint: "x"}, {Transport: "twilio", Endpoint: "localhost:1"},
		{Transport: "twilio", Endpoint: "wss://localhost:1/x"}, {Transport: "twilio", Endpoint: "ws://127.0.0.1:1/x"}} {
		s.call(o)
		s.expect("refused")
		s.pool.Wait()
	}
	if s.pool.Stop(5) == nil {
		t.Error("stopped nobody")
	}
}

// authority makes a certificate of worker.test that is its own authority.
func authority(t *testing.T) (*tls.Certificate, string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"worker.test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}
