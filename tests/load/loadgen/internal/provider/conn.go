package provider

import (
	"bytes"
	"net"
	"sync"
	"time"

	"parley.dev/loadgen/internal/clock"
	"parley.dev/loadgen/internal/meter"
	"parley.dev/loadgen/internal/wire"
)

const (
	// maxPending bounds what waits for a worker that does not read: its connection is closed then.
	maxPending   = 16 << 20
	writeTimeout = 30 * time.Second
	// blocked is how long a write takes at least that waits for the worker.
	blocked = 2_000_000
)

// A conn is one worker's connection: a goroutine reads, one writes, and the wheel moves answers on.
type conn struct {
	server  *Server
	socket  net.Conn
	id      int64
	mu      sync.Mutex
	talk    *Conversation
	session *meter.Session // nil until the conversation has a number
	stepAt  int64          // when the wheel calls next; 0 for never
	log     *Log
	closed  bool
	pending []byte // whole frames
	marks   []mark
	news    chan struct{}
}

// A mark is a moment of an answer within what waits to be written.
type mark struct {
	made     int64
	answer   int64
	millis   int
	finished bool
	cut      bool
}

// Text, Delta and Finished are Out: called with mu held.
func (c *conn) Text(event []byte) {
	c.shard().Add(meter.EventsSent, 1)
	c.pending = wire.AppendFrame(c.pending, wire.Text, event)
}

var deltaEnd = []byte(`"}`)

func (c *conn) Delta(head, text []byte, answer int64, millis int) {
	c.pending = wire.AppendFrame(c.pending, wire.Text, head, text, deltaEnd)
	c.marks = append(c.marks, mark{made: clock.Now(), answer: answer, millis: millis})
}

func (c *conn) Finished(answer int64, cut bool) {
	c.marks = append(c.marks, mark{made: clock.Now(), answer: answer, finished: true, cut: cut})
}

func (c *conn) shard() *meter.Shard { return c.server.Registry.Meter.Shard(c.id) }

// flush, with mu held, wakes the writer and the wheel for what the conversation said.
func (c *conn) flush() {
	if len(c.pending) > maxPending && !c.closed {
		c.shard().Add(meter.ProviderOverflows, 1)
		c.closed = true
		c.socket.Close()
	}
	if due := c.talk.Due(); due != 0 && c.stepAt == 0 {
		c.stepAt = due
		c.server.Wheel.At(due, c)
	}
	if len(c.pending) > 0 || len(c.marks) > 0 {
		select {
		case c.news <- struct{}{}:
		default:
		}
	}
}

// Fire is the wheel's call.
func (c *conn) Fire(now, due int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stepAt = 0
	if !c.closed {
		c.talk.Step(due)
		c.flush()
	}
	return 0
}

func (c *conn) serve(early []byte) error {
	c.mu.Lock()
	c.talk = NewConversation(c.id, c.server.Settings, c)
	c.flush()
	c.mu.Unlock()
	go c.write()
	defer c.end()
	in := wire.NewReader(c.socket, early)
	for {
		opcode, payload, err := in.Next()
		if err != nil {
			return err
		}
		switch opcode {
		case wire.Text, wire.Binary:
			c.take(clock.Now(), payload)
		case wire.Ping, wire.Close:
			c.control(opcode, payload)
			if opcode == wire.Close {
				return nil
			}
		}
	}
}

func (c *conn) take(now int64, payload []byte) {
	text, ok := cutAppend(payload)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ok {
		c.event(now, payload)
		c.flush()
		return
	}
	size := decodedSize(text)
	if size < 0 {
		c.shard().Add(meter.ProviderErrors, 1)
		c.talk.refuse("invalid_base64", "the audio is no base64", nil)
		c.flush()
		return
	}
	if c.session != nil {
		c.session.Appended(now, c.id, size, text)
	}
	c.log.appended(now, size)
	c.talk.Appended(now, size)
	if len(c.pending) > 0 {
		c.flush()
	}
}

func (c *conn) event(now int64, payload []byte) {
	if err := c.talk.Event(now, payload); err != nil {
		c.shard().Add(meter.ProviderErrors, 1)
		c.log.failed(err)
	}
	if !bytes.Contains(payload, []byte(`"session.update"`)) || c.talk.Sid < 0 {
		return
	}
	if c.session == nil || c.session.Sid != c.talk.Sid {
		c.release()
		c.session = c.server.Registry.Hold(c.talk.Sid)
	}
	c.session.Connected(c.id, c.talk.Input)
	c.log.named(c.talk.Sid, c.talk.Input)
}

func (c *conn) control(opcode byte, payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	answer := byte(wire.Pong)
	if opcode == wire.Close {
		answer = wire.Close
	}
	c.pending = wire.AppendFrame(c.pending, answer, payload[:min(len(payload), 125)])
	c.flush()
}

func (c *conn) release() {
	if c.session != nil {
		c.session.Disconnected(c.id)
		c.server.Registry.Drop(c.session)
		c.session = nil
	}
}

// end lets the writer write what waits, and then closes.
func (c *conn) end() {
	c.mu.Lock()
	c.closed = true
	c.release()
	close(c.news)
	c.news = make(chan struct{}, 1)
	c.mu.Unlock()
}

func (c *conn) write() {
	defer c.socket.Close()
	var spare []byte
	var marks []mark
	var from, upto int64 // of the last write
	news := c.news
	for open := true; open; {
		_, open = <-news
		c.mu.Lock()
		spare, c.pending = c.pending, spare[:0]
		marks, c.marks = c.marks, marks[:0]
		session := c.session
		c.mu.Unlock()
		if len(spare) == 0 && len(marks) == 0 {
			continue
		}
		now := clock.Now()
		waited := upto-from > blocked
		for _, m := range marks {
			at := now
			if waited && m.made < upto {
				at = m.made // it would have gone then, had the worker read
			} else {
				c.shard().Record(meter.Lag, now-m.made)
			}
			c.tell(session, at, m)
		}
		_ = c.socket.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := c.socket.Write(spare); err != nil {
			return
		}
		from, upto = now, clock.Now()
		if cap(spare) > 1<<20 {
			spare = nil
		}
	}
}

func (c *conn) tell(session *meter.Session, at int64, m mark) {
	if !m.finished {
		c.log.sent(at, m.answer)
	}
	switch {
	case session == nil:
	case m.finished:
		session.Finished(at, m.answer, m.cut)
	default:
		session.Delta(at, m.answer, m.millis)
	}
}
