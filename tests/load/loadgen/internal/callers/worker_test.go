package callers

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"parley.dev/loadgen/internal/wire"
)

// A worker is a bare bridge that speaks every transport. Tickets steer it: "wrong" is refused, "mute" is never answered,
// "vanish" is attached and gone before it has a provider, "deaf" is attached and never read again, "move" loses its
// provider after 20 frames and comes back after 200 ms.
type worker struct {
	t        *testing.T
	provider string // host:port
	address  string
	phones   string
	stop     func()
}

// serve starts gRPC and the WebSocket of telephony, both with `secured` where it is given.
func serve(t *testing.T, provider string, secured credentials.TransportCredentials) *worker {
	w := &worker{t: t, provider: provider}
	options := []grpc.ServerOption{grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(w.handle)}
	if secured != nil {
		options = append(options, grpc.Creds(secured))
	}
	server := grpc.NewServer(options...)
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	media, phones := listen(), listen()
	w.address, w.phones = media.Addr().String(), "ws://"+phones.Addr().String()+"/twilio"
	go server.Serve(media)
	go func() {
		for {
			socket, err := phones.Accept()
			if err != nil {
				return
			}
			go w.phone(socket)
		}
	}()
	w.stop = func() { server.Stop(); phones.Close() }
	return w
}

// queued is a piece of an answer.
type queued struct {
	item  string
	sound []byte
}

// A bridge is one session: caller audio goes in by `append`, the agent's frames come out by `play`.
type bridge struct {
	mu     sync.Mutex
	socket net.Conn
	sid    int64
	rate   string
	frame  int
	queue  []queued
	play   func(item string, frame []byte)
	closed chan struct{}
}

func (w *worker) bridge(sid int64, size int, play func(string, []byte)) *bridge {
	b := &bridge{sid: sid, frame: size, play: play, closed: make(chan struct{}), rate: `{"type":"audio/pcm","rate":24000}`}
	if size == 160 {
		b.rate = `{"type":"audio/pcmu"}`
	}
	b.connect(w.provider)
	go b.pace()
	return b
}

func (b *bridge) connect(provider string) {
	socket, err := net.Dial("tcp", provider)
	if err != nil {
		panic(err)
	}
	early, err := wire.Open(socket, &url.URL{Host: provider, Path: "/v1/realtime"})
	if err != nil {
		panic(err)
	}
	b.mu.Lock()
	b.socket = socket
	b.mu.Unlock()
	b.write(fmt.Appendf(nil, `{"type":"session.update","session":{"instructions":"sid=%d","audio":{"input":{"format":%s},"output":{"format":%s}}}}`, b.sid, b.rate, b.rate))
	go b.read(wire.NewReader(socket, early))
}

func (b *bridge) write(event []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.socket != nil {
		_, _ = b.socket.Write(wire.AppendMasked(nil, wire.Text, event))
	}
}

func (b *bridge) append(sound []byte) {
	if len(sound) > 0 {
		b.write(fmt.Appendf(nil, `{"type":"input_audio_buffer.append","audio":"%s"}`, base64.StdEncoding.EncodeToString(sound)))
	}
}

func (b *bridge) read(in *wire.Reader) {
	for {
		_, payload, err := in.Next()
		if err != nil {
			return
		}
		var event struct {
			Type  string `json:"type"`
			Item  string `json:"item_id"`
			Delta []byte `json:"delta"`
		}
		if json.Unmarshal(payload, &event) == nil && event.Type == "response.output_audio.delta" {
			b.mu.Lock()
			for sound := event.Delta; len(sound) > 0; {
				n := min(b.frame, len(sound))
				b.queue = append(b.queue, queued{event.Item, sound[:n]})
				sound = sound[n:]
			}
			b.mu.Unlock()
		}
	}
}

func (b *bridge) pace() {
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		select {
		case <-tick.C:
		case <-b.closed:
			tick.Stop()
			return
		}
		b.mu.Lock()
		var next queued
		if len(b.queue) > 0 {
			next, b.queue = b.queue[0], b.queue[1:]
		}
		b.mu.Unlock()
		if next.sound != nil {
			b.play(next.item, next.sound)
		}
	}
}

func (b *bridge) lose() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.socket != nil {
		b.socket.Close()
		b.socket = nil
	}
}

func (b *bridge) close() {
	close(b.closed)
	b.lose()
}

func (w *worker) handle(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	var mu sync.Mutex
	send := func(message []byte) {
		mu.Lock()
		defer mu.Unlock()
		_ = stream.SendMsg(bytesMessage(message))
	}
	switch method {
	case "/floor.Media/Session":
		return w.floor(stream, send)
	case "/floor.Media/Mux":
		return w.mux(stream, send)
	case "/parley.media.v1.MediaService/Converse":
		return w.converse(stream, send)
	case "/parley.media.v1.MediaService/ConverseMany":
		return w.converseMany(stream, send)
	}
	return status.Error(codes.Unimplemented, method)
}

// messages calls `take` for each message, to the end of the stream or its first error.
func messages(stream grpc.ServerStream, take func([]byte) error) (taken error) {
	for taken == nil {
		if err := stream.RecvMsg(receiver(func(m []byte) error { taken = take(m); return nil })); err != nil {
			return nil
		}
	}
	return taken
}

func (w *worker) floor(stream grpc.ServerStream, send func([]byte)) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	sid, _ := strconv.ParseInt(md.Get("sid")[0], 10, 64)
	b := w.bridge(sid, 960, func(_ string, frame []byte) { send(wire.AppendBytes(nil, 2, frame)) })
	defer b.close()
	return messages(stream, func(m []byte) error {
		sound, err := wire.FloorDown(m)
		b.append(sound)
		return err
	})
}

func (w *worker) mux(stream grpc.ServerStream, send func([]byte)) error {
	bridges := map[uint64]*bridge{}
	defer func() {
		for _, b := range bridges {
			b.close()
		}
	}()
	return messages(stream, func(m []byte) error {
		return wire.FloorTick(m, func(sid uint64, sound []byte) {
			b := bridges[sid]
			if b == nil {
				b = w.bridge(int64(sid), 960, func(_ string, frame []byte) { send(wire.AppendFloorFrame(nil, sid, 1, frame)) })
				bridges[sid] = b
			}
			b.append(sound)
		})
	})
}

// A sessionEnd is how a session of Parley's transports ends.
type sessionEnd struct {
	code   codes.Code
	reason string
}

// A session is one attach over Converse or ConverseMany.
type session struct {
	w      *worker
	reply  func(response []byte)
	frame  func(item string, frame []byte)
	b      *bridge
	frames int
	ticket string
}

// take takes a ConverseRequest's fields; an end is not nil when it is the last.
func (s *session) take(kind int, payload []byte) *sessionEnd {
	switch kind {
	case 1:
		return s.start(payload)
	case 2:
		s.sound(payload)
	case 10:
		s.reply(wire.AppendMessage(nil, wire.Ended, wire.AppendString(nil, 1, "CallerHangup")))
		return &sessionEnd{codes.OK, ""}
	}
	return nil
}

func (s *session) start(payload []byte) *sessionEnd {
	var uid string
	size := 960
	for len(payload) > 0 {
		f, rest, err := wire.Next(payload)
		if err != nil {
			return &sessionEnd{codes.InvalidArgument, "malformed"}
		}
		payload = rest
		switch f.Number {
		case 1:
			s.ticket = string(f.B)
		case 3:
			if encoding, _, _ := wire.Next(f.B); encoding.V == 2 {
				size = 160
			}
		case 8:
			uid = string(f.B)
		}
	}
	if s.ticket == "wrong" {
		return &sessionEnd{codes.Unauthenticated, "ticket-unknown"}
	}
	if s.ticket == "mute" {
		return nil
	}
	if s.ticket == "vanish" {
		s.reply(wire.AppendMessage(nil, wire.Started, nil))
		return &sessionEnd{codes.Aborted, "replaced"}
	}
	sid, _ := strconv.ParseInt(uid, 10, 64)
	s.b = s.w.bridge(sid, size, s.frame)
	s.reply(wire.AppendMessage(nil, wire.Started, nil))
	s.reply(wire.AppendMessage(nil, wire.Mark, wire.AppendString(nil, 1, "m1")))
	return nil
}

func (s *session) sound(payload []byte) {
	if s.frames++; s.frames == 20 && s.ticket == "move" {
		s.b.lose()
		go func() {
			time.Sleep(200 * time.Millisecond)
			s.b.connect(s.w.provider)
		}()
	}
	s.b.append(payload)
}

func (s *session) close() {
	if s.b != nil {
		s.b.close()
	}
}

func (w *worker) converse(stream grpc.ServerStream, send func([]byte)) error {
	s := &session{w: w, reply: send, frame: func(item string, frame []byte) {
		audio := wire.AppendString(wire.AppendBytes(nil, 1, frame), 2, item)
		send(wire.AppendMessage(nil, wire.Audio, audio))
	}}
	defer s.close()
	over := false
	err := messages(stream, func(m []byte) error {
		f, _, err := wire.Next(m)
		if err != nil {
			return err
		}
		payload := f.B
		if f.Number == 2 {
			payload = lastBytes(f.B, 1)
		}
		if end := s.take(f.Number, payload); end != nil {
			if over = end.code == codes.OK; over {
				return io.EOF
			}
			stream.SetTrailer(metadata.Pairs("parley-reason", end.reason))
			return status.Error(end.code, "no")
		}
		if s.ticket == "deaf" {
			<-stream.Context().Done()
		}
		return nil
	})
	if over {
		return nil
	}
	return err
}

// lastBytes is a message's field of bytes.
func lastBytes(b []byte, number int) (out []byte) {
	for len(b) > 0 {
		f, rest, err := wire.Next(b)
		if err != nil {
			return nil
		}
		if b = rest; f.Number == number {
			out = f.B
		}
	}
	return out
}

func (w *worker) converseMany(stream grpc.ServerStream, send func([]byte)) error {
	sessions := map[uint64]*session{}
	defer func() {
		for _, s := range sessions {
			s.close()
		}
	}()
	entry := func(handle uint64, field int, value []byte) []byte {
		return wire.AppendMessage(nil, 1, wire.AppendMessage(wire.AppendVarint(nil, 1, handle), field, value))
	}
	return messages(stream, func(m []byte) error {
		// A CallerEntry's handle, audio and message have the numbers of an AgentEntry's.
		return wire.ManyEntries(m, func(e *wire.AgentEntry) error {
			s, handle := sessions[e.Handle], e.Handle
			if s == nil {
				said := ""
				s = &session{w: w, reply: func(r []byte) { send(entry(handle, 3, r)) }}
				s.frame = func(item string, frame []byte) {
					in := wire.AppendBytes(wire.AppendVarint(nil, 1, handle), 2, frame)
					if item != said {
						said = item
						in = wire.AppendString(in, 9, item)
					}
					send(wire.AppendMessage(nil, 1, in))
				}
				sessions[handle] = s
			}
			kind, payload := 2, e.Audio
			if e.Message != nil {
				f, _, err := wire.Next(e.Message)
				if err != nil {
					return err
				}
				kind, payload = f.Number, f.B
			}
			if end := s.take(kind, payload); end != nil {
				delete(sessions, handle)
				s.close()
				if end.code != codes.OK {
					send(entry(handle, 4, wire.AppendString(wire.AppendVarint(nil, 1, uint64(end.code)), 2, end.reason)))
				}
			}
			return nil
		})
	})
}

// phone is a Twilio media stream: what pipecat's frames carry is told apart by the opcode.
func (w *worker) phone(socket net.Conn) {
	defer socket.Close()
	early, err := wire.Accept(socket, func() {})
	if err != nil {
		return
	}
	var mu sync.Mutex
	send := func(opcode byte, message []byte) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = socket.Write(wire.AppendFrame(nil, opcode, message))
	}
	var b *bridge
	defer func() {
		if b != nil {
			b.close()
		}
	}()
	begin := func(sid int64, size int) *bridge {
		return w.bridge(sid, size, func(_ string, frame []byte) {
			if size == 960 {
				send(wire.Binary, append(append(wire.PipecatHead(len(frame)), frame...), wire.PipecatTail...))
			} else {
				send(wire.Text, fmt.Appendf(nil, `{"event":"media","media":{"payload": "%s"}}`, base64.StdEncoding.EncodeToString(frame)))
			}
		})
	}
	for in := wire.NewReader(socket, early); ; {
		opcode, payload, err := in.Next()
		if err != nil {
			return
		}
		switch opcode {
		case wire.Close:
			send(wire.Close, payload)
			return
		case wire.Binary:
			sound, _ := wire.PipecatAudio(payload)
			b.append(sound)
		case wire.Text:
			var m struct {
				Event string
				Start struct {
					StreamSid        string
					CustomParameters map[string]string
				}
				Media struct{ Payload []byte }
			}
			_ = json.Unmarshal(payload, &m)
			switch m.Event {
			case "start":
				sid, _ := strconv.ParseInt(m.Start.StreamSid[2:], 10, 64)
				size := 160
				if m.Start.CustomParameters["ticket"] == "raw24" {
					size = 960
				}
				b = begin(sid, size)
				send(wire.Text, []byte(`{"event":"mark","mark":{"name":"m1"}}`))
			case "media":
				b.append(m.Media.Payload)
			}
		}
	}
}
