package callers

import (
	"context"
	"strconv"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"parley.dev/loadgen/internal/clock"
	"parley.dev/loadgen/internal/meter"
	"parley.dev/loadgen/internal/wire"
)

// A stream is a leg with a gRPC stream of its own.
type stream struct {
	call    *call
	method  string
	meta    []string // of the request
	first   []byte   // message, or nil
	head    func(frame uint64, payload int) []byte
	goodbye []byte   // message, or nil to close the sending side
	take    receiver // of every message that comes

	*sender
	client grpc.ClientStream
	cancel context.CancelFunc
	ready  chan struct{}
	over   chan struct{}
	mu     sync.Mutex
	end    ending
	word   string // the worker's reason
}

func newStream(c *call) *stream {
	return &stream{call: c, ready: make(chan struct{}), over: make(chan struct{}), cancel: func() {}}
}

func newFloor(c *call) (leg, error) {
	s := newStream(c)
	s.method, s.meta = "/floor.Media/Session", []string{"sid", strconv.FormatInt(c.order.Sid, 10)}
	s.head = wire.FloorUp
	s.take = func(message []byte) error {
		sound, err := wire.FloorDown(message)
		if err == nil && len(sound) > 0 {
			c.session.Heard(clock.Now(), meter.Unknown, len(sound))
		}
		return err
	}
	close(s.ready)
	return s, nil
}

func newConverse(c *call) (leg, error) {
	s := newStream(c)
	s.method = "/parley.media.v1.MediaService/Converse"
	s.first = wire.Start(c.order.Ticket, c.order.SessionUID, c.format, c.order.wantsEvents())
	s.head = func(frame uint64, payload int) []byte {
		return wire.AudioHead(make([]byte, 0, 40), frame+1, payload)
	}
	s.goodbye = wire.Hangup()
	listener := &listener{call: c, reply: func(b []byte) { s.say(b) }, started: s.ready}
	s.take = func(message []byte) error {
		r, err := wire.ParseResponse(message)
		if err == nil {
			listener.take(clock.Now(), &r)
		}
		if r.Kind == wire.Ended {
			s.mu.Lock()
			s.word = string(r.Reason)
			s.mu.Unlock()
		}
		return err
	}
	return s, nil
}

func (s *stream) open(ctx context.Context) *ending {
	ctx, s.cancel = context.WithCancel(metadata.AppendToOutgoingContext(ctx, s.meta...))
	conn, err := s.call.pool.channels.get(s.call.order.target(), s.call.pool.Conns)
	if err == nil {
		s.client, err = conn.NewStream(ctx, bidirectional, s.method)
	}
	if err == nil && s.first != nil {
		err = s.client.SendMsg(bytesMessage(s.first))
	}
	if err != nil && s.client == nil {
		code, reason := verdict(nil, err)
		return &ending{code, reason}
	}
	s.sender = newSender(s.call, s.sendParcel)
	go s.receive()
	select {
	case <-s.ready:
		return nil
	case <-s.over:
		return &s.end
	}
}

func (s *stream) sendParcel(p parcel) error {
	if p.frame < 0 {
		if p.other == nil {
			return s.client.CloseSend()
		}
		return s.client.SendMsg(bytesMessage(p.other))
	}
	payload := s.call.speech.Frames[p.frame%int64(len(s.call.speech.Frames))]
	return s.client.SendMsg(mem.BufferSlice{mem.SliceBuffer(s.head(uint64(p.frame), len(payload))), mem.SliceBuffer(payload)})
}

func (s *stream) receive() {
	defer close(s.over)
	var take any = s.take
	for {
		if err := s.client.RecvMsg(take); err != nil {
			code, reason := verdict(s.client, err)
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.word != "" {
				reason = s.word
			}
			s.end = ending{code, reason}
			return
		}
	}
}

func (s *stream) hangup() {
	s.say(s.goodbye)
	if s.goodbye == nil {
		waitFor(s.over, closeTimeout)
		s.cancel()
	}
}

func (s *stream) ended() <-chan struct{} { return s.over }

func (s *stream) close() ending {
	s.cancel()
	if s.sender == nil {
		return ending{"CANCELLED", "never opened"}
	}
	close(s.done)
	<-s.over
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.goodbye == nil && s.end.status == "CANCELLED" {
		return ending{"OK", "hung up"}
	}
	return s.end
}
