// Package callers plays the callers: each says a 20 ms frame every 20 ms and listens.
package callers

import (
	"context"
	"fmt"
	"math"
	"time"

	"parley.dev/loadgen/internal/audio"
	"parley.dev/loadgen/internal/clock"
	"parley.dev/loadgen/internal/meter"
)

const (
	// FramePeriod is 20 ms.
	FramePeriod = 20_000_000

	startTimeout = 30 * time.Second
	closeTimeout = 500 * time.Millisecond // for a worker to close a stream that says no more
	readyDelay   = 500 * time.Millisecond // for workers that do not say when they are ready
	endTimeout   = 5 * time.Second        // for the worker's last word
)

// settleTimeout is how long the last frames have to come through.
var settleTimeout = 2 * time.Second

// Order is the "call" command.
type Order struct {
	Sid         int64   `json:"sid"`
	Transport   string  `json:"transport"`
	Endpoint    string  `json:"endpoint"`
	TLSCA       string  `json:"tls_ca"`
	TLSName     string  `json:"tls_name"`
	Ticket      string  `json:"ticket"`
	SessionUID  string  `json:"session_uid"`
	Format      string  `json:"format"`
	Stream      int     `json:"stream"`
	HangupAfter float64 `json:"hangup_after"`
	Events      *bool   `json:"events"`
}

// wantsEvents tells whether the caller is to be told conversation events; that is so unless it says otherwise.
func (o *Order) wantsEvents() bool { return o.Events == nil || *o.Events }

func (o *Order) target() Target { return Target{o.Endpoint, o.TLSCA, o.TLSName} }

// An ending is how a leg ended.
type ending struct {
	status string // gRPC's name, "OK" for a good end
	reason string
}

// A leg carries one call over some transport.
type leg interface {
	// open attaches; it returns when the worker is ready for audio, or tells why not.
	open(ctx context.Context) *ending
	// flow begins sending a frame every 20 ms, silence ends it.
	flow()
	silence()
	// hangup says goodbye; ended is closed when the worker has said its last word.
	hangup()
	ended() <-chan struct{}
	// close frees everything and gives how it ended.
	close() ending
}

// call is one caller from "call" to "ended".
type call struct {
	pool    *Pool
	order   Order
	format  *audio.Format
	speech  *audio.Speech
	session *meter.Session
	stop    chan struct{}
	cancel  context.CancelFunc // of the leg, once it is open
}

func (c *call) shard() *meter.Shard { return c.session.Shard }

// run plays the call to its end.
func (c *call) run() {
	defer c.pool.leave(c)
	defer c.pool.Registry.Drop(c.session)
	defer func() { c.cancel() }()
	leg, err := c.leg()
	if err != nil {
		c.refused(&ending{"INVALID_ARGUMENT", err.Error()})
		return
	}
	if bad := c.start(leg); bad != nil {
		if end := leg.close(); bad == legEnded {
			bad = &end
		}
		c.refused(bad)
		return
	}
	c.shard().Add(meter.CallsStarted, 1)
	c.pool.started(c)
	c.session.Flow(c.format, c.pool.Raw.Load())
	c.say("started", nil)
	leg.flow()
	stopped := c.wait(leg)
	leg.silence()
	if stopped {
		c.settle(leg)
		leg.hangup()
		waitFor(leg.ended(), endTimeout)
	}
	end := leg.close()
	if raw := c.session.End(stopped); raw != nil {
		c.pool.keep(raw)
	}
	c.shard().Add(meter.CallsEnded, 1)
	c.say("ended", &end)
}

// legEnded stands for what the leg's close will tell.
var legEnded = new(ending)

// start opens the leg and waits for both sides to be ready. The leg is to be closed where that fails.
func (c *call) start(leg leg) *ending {
	ctx, cancel := context.WithCancel(context.Background())
	opened := make(chan *ending, 1)
	go func() { opened <- leg.open(ctx) }()
	deadline := time.NewTimer(startTimeout)
	defer deadline.Stop()
	giveUp := func(e *ending) *ending {
		cancel()
		<-opened
		return e
	}
	stopped := &ending{"CANCELLED", "stopped before it started"}
	select {
	case bad := <-opened:
		if bad != nil {
			cancel()
			return bad
		}
	case <-c.stop:
		return giveUp(stopped)
	case <-deadline.C:
		return giveUp(&ending{"DEADLINE_EXCEEDED", fmt.Sprintf("the worker did not start the call within %v", startTimeout)})
	}
	c.cancel = cancel
	select {
	case <-c.session.Seen():
	case <-leg.ended():
		return legEnded
	case <-c.stop:
		return stopped
	case <-deadline.C:
		return &ending{"DEADLINE_EXCEEDED", fmt.Sprintf("no provider connection said sid=%d in its instructions within %v",
			c.order.Sid, startTimeout)}
	}
	if c.order.Transport == "converse" || c.order.Transport == "conversemany" {
		return nil
	}
	select { // others have a provider and may not take audio yet: only Parley says when it does
	case <-time.After(readyDelay):
	case <-leg.ended():
		return legEnded
	case <-c.stop:
		return stopped
	}
	return nil
}

// wait is true when this side ends the call.
func (c *call) wait(leg leg) bool {
	var over <-chan time.Time
	if c.order.HangupAfter > 0 {
		timer := time.NewTimer(time.Duration(c.order.HangupAfter * float64(time.Second)))
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-c.stop:
	case <-over:
	case <-leg.ended():
		return false
	}
	return true
}

// settle gives the last frames time to come through.
func (c *call) settle(leg leg) {
	for end := time.Now().Add(settleTimeout); time.Now().Before(end) && !c.session.Arrived(); {
		select {
		case <-leg.ended():
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func waitFor(done <-chan struct{}, timeout time.Duration) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

func (c *call) refused(why *ending) {
	c.shard().Add(meter.CallsRefused, 1)
	c.say("refused", why)
}

func (c *call) say(event string, end *ending) {
	m := map[string]any{"event": event, "sid": c.order.Sid, "t": clock.Seconds(clock.Now())}
	if end != nil {
		m["status"], m["reason"] = end.status, end.reason
	}
	c.pool.Say(m)
}

// phase spreads the calls over the 20 ms: nanoseconds after each multiple of them, by number.
func phase(sid int64) int64 {
	_, part := math.Modf(float64(sid) * 0.6180339887498949)
	return int64(part * FramePeriod)
}

func (c *call) leg() (leg, error) {
	switch c.order.Transport {
	case "converse":
		return newConverse(c)
	case "conversemany":
		return newConverseMany(c)
	case "floor":
		return newFloor(c)
	case "floor-many":
		return newFloorMany(c)
	case "twilio":
		return newPhone(c)
	}
	return nil, fmt.Errorf("transport %q is unknown: give converse, conversemany, floor, floor-many or twilio", c.order.Transport)
}
