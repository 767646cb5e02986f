package callers

import (
	"fmt"
	"sync"
	"sync/atomic"

	"parley.dev/loadgen/internal/audio"
	"parley.dev/loadgen/internal/clock"
	"parley.dev/loadgen/internal/meter"
)

// A Pool has all calls.
type Pool struct {
	Registry *meter.Registry
	Wheel    *clock.Wheel
	// Say writes an event.
	Say func(event map[string]any)
	// Conns is how many connections the calls with a stream of their own share, for each target.
	Conns int
	// Subticks is in how many parts a shared stream's 20 ms are sent.
	Subticks int
	// Raw keeps the times of calls that start from then on.
	Raw atomic.Bool

	channels channels
	shared   shared
	mu       sync.Mutex
	calls    map[int64]*call
	flowing  map[int64]bool
	raws     []*meter.Raw
	running  sync.WaitGroup
}

// Call starts a caller. An error says what of the order is wrong.
func (p *Pool) Call(o Order) error {
	if o.Format == "" {
		o.Format = "pcm24"
	}
	format, err := audio.ByName(o.Format)
	if err != nil {
		return err
	}
	if o.Endpoint == "" {
		return fmt.Errorf("endpoint is empty: give host:port, or the URL of a WebSocket")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls == nil {
		p.calls, p.flowing = map[int64]*call{}, map[int64]bool{}
	}
	if p.calls[o.Sid] != nil {
		return fmt.Errorf("sid %d is being called already: stop it first", o.Sid)
	}
	c := &call{pool: p, order: o, format: format, speech: audio.SpeechOf(format), session: p.Registry.Hold(o.Sid),
		stop: make(chan struct{}), cancel: func() {}}
	p.calls[o.Sid] = c
	p.running.Add(1)
	go c.run()
	return nil
}

// Stop hangs a call up. An error says that there is none.
func (p *Pool) Stop(sid int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.calls[sid]
	if c == nil {
		return fmt.Errorf("sid %d is not being called", sid)
	}
	c.hang()
	return nil
}

// StopAll hangs all calls up; their "ended" events follow.
func (p *Pool) StopAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.calls {
		c.hang()
	}
}

// Wait returns when no call is left.
func (p *Pool) Wait() { p.running.Wait() }

// hang is called with the pool's lock.
func (c *call) hang() {
	select {
	case <-c.stop:
	default:
		close(c.stop)
	}
}

// Sessions is how many calls have audio flowing.
func (p *Pool) Sessions() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.flowing)
}

func (p *Pool) started(c *call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flowing[c.order.Sid] = true
}

func (p *Pool) leave(c *call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.calls, c.order.Sid)
	delete(p.flowing, c.order.Sid)
	p.running.Done()
}

func (p *Pool) keep(raw *meter.Raw) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.raws = append(p.raws, raw)
}

// Raws gives the times of the calls that are over.
func (p *Pool) Raws() []*meter.Raw {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*meter.Raw{}, p.raws...)
}
