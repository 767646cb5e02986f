package callers

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"sync"
	"time"

	"parley.dev/loadgen/internal/audio"
	"parley.dev/loadgen/internal/clock"
	"parley.dev/loadgen/internal/meter"
	"parley.dev/loadgen/internal/wire"
)

const dialTimeout = 10 * time.Second

// A phone is a Twilio media stream: a WebSocket of JSON messages with mu-law, or, with pcm24, of pipecat's protobuf
// frames.
type phone struct {
	call   *call
	url    *url.URL
	config *tls.Config
	id     string // of the stream

	*sender
	socket  net.Conn
	scratch []byte
	over    chan struct{}
	mu      sync.Mutex
	hung    bool
	end     ending
}

func newPhone(c *call) (leg, error) {
	u, err := url.Parse(c.order.Endpoint)
	if err != nil || (u.Scheme != "ws" && u.Scheme != "wss") || u.Port() == "" {
		return nil, fmt.Errorf("endpoint %q is no URL for twilio: give ws://host:port/path or wss://host:port/path", c.order.Endpoint)
	}
	p := &phone{call: c, url: u, id: fmt.Sprintf("MZ%d", c.order.Sid), over: make(chan struct{})}
	if u.Scheme == "wss" {
		target := c.order.target()
		if p.config, err = target.tlsConfig(); err != nil {
			return nil, err
		}
		if p.config == nil {
			return nil, errors.New("tls_ca is empty: give the file of the authority that signed the worker's certificate")
		}
		if p.config.ServerName == "" {
			p.config.ServerName = u.Hostname()
		}
	}
	return p, nil
}

func (p *phone) open(ctx context.Context) *ending {
	early, err := p.dial(ctx)
	if err != nil {
		return &ending{"UNAVAILABLE", err.Error()}
	}
	p.sender = newSender(p.call, p.sendParcel)
	go p.receive(early)
	p.say([]byte(`{"event":"connected","protocol":"Call","version":"1.0.0"}`))
	p.say(p.start())
	return nil
}

func (p *phone) dial(ctx context.Context) (early []byte, err error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	if p.socket, err = dialer.DialContext(ctx, "tcp", p.url.Host); err != nil {
		return nil, err
	}
	if p.config != nil {
		p.socket = tls.Client(p.socket, p.config)
	}
	_ = p.socket.SetDeadline(time.Now().Add(dialTimeout))
	if early, err = wire.Open(p.socket, p.url); err != nil {
		p.socket.Close()
		return nil, err
	}
	_ = p.socket.SetDeadline(time.Time{})
	return early, nil
}

func (p *phone) start() []byte {
	parameters := map[string]string{}
	if p.call.order.Ticket != "" {
		parameters["ticket"] = p.call.order.Ticket
	}
	b, err := json.Marshal(map[string]any{"event": "start", "sequenceNumber": "1", "streamSid": p.id, "start": map[string]any{
		"accountSid": "AC0", "streamSid": p.id, "callSid": fmt.Sprintf("CA%d", p.call.order.Sid), "tracks": []string{"inbound"},
		"mediaFormat":      map[string]any{"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
		"customParameters": parameters}})
	if err != nil {
		panic(err)
	}
	return b
}

// sendParcel is called by the sender's goroutine alone.
func (p *phone) sendParcel(parcel parcel) error {
	b := p.scratch[:0]
	switch frame := parcel.frame; {
	case frame < 0:
		b = wire.AppendMasked(b, parcel.opcode(), parcel.other)
	case p.call.format == audio.Ulaw8:
		head := fmt.Appendf(nil, `{"event":"media","sequenceNumber":"%d","media":{"track":"inbound","chunk":"%d","timestamp":"%d","payload":"`,
			frame+2, frame+1, frame*20)
		b = wire.AppendMasked(b, wire.Text, head, p.call.speech.Text[frame%audio.Frames], []byte(`"},"streamSid":"`), []byte(p.id), []byte(`"}`))
	default:
		payload := p.call.speech.Frames[frame%audio.Frames]
		b = wire.AppendMasked(b, wire.Binary, wire.PipecatHead(len(payload)), payload, wire.PipecatTail)
	}
	p.scratch = b
	_, err := p.socket.Write(b)
	return err
}

func (p *phone) receive(early []byte) {
	defer close(p.over)
	in := wire.NewReader(p.socket, early)
	for {
		opcode, payload, err := in.Next()
		if err == nil && opcode == wire.Close {
			err = errors.New("closed")
			if len(payload) >= 2 {
				err = errors.New("closed with " + strconv.Itoa(int(payload[0])<<8|int(payload[1])))
			}
		}
		if err != nil {
			p.mu.Lock()
			p.end = ending{"OK", "the worker ended the stream"}
			if !p.hung && err.Error() != "closed with 1000" {
				p.end = ending{"UNAVAILABLE", err.Error()}
			}
			p.mu.Unlock()
			return
		}
		p.take(clock.Now(), opcode, payload)
	}
}

func (p *phone) take(now int64, opcode byte, payload []byte) {
	switch opcode {
	case wire.Ping:
		p.sayAs(wire.Pong, bytes.Clone(payload))
	case wire.Binary:
		if sound, ok := wire.PipecatAudio(payload); ok {
			p.heard(now, sound)
		}
	case wire.Text:
		if text, ok := cutPayload(payload); ok {
			sound := make([]byte, 0, 1024)
			if sound, err := base64.StdEncoding.AppendDecode(sound, text); err == nil {
				p.heard(now, sound)
			}
			return
		}
		p.event(payload)
	}
}

// heard leaves silence out, which bridges send while nobody speaks.
func (p *phone) heard(now int64, sound []byte) {
	if audio.Silent(sound) {
		p.call.shard().Add(meter.SilentFrames, int64(len(sound)/p.call.format.Frame))
		return
	}
	p.call.session.Heard(now, meter.Unknown, len(sound))
}

func (p *phone) event(payload []byte) {
	p.call.shard().Add(meter.EventsReceived, 1)
	var event struct {
		Event string          `json:"event"`
		Mark  json.RawMessage `json:"mark"`
	}
	if json.Unmarshal(payload, &event) != nil {
		return
	}
	switch event.Event {
	case "clear":
		p.call.session.Cleared(false)
	case "mark":
		p.say(fmt.Appendf(nil, `{"event":"mark","streamSid":"%s","mark":%s}`, p.id, event.Mark))
	}
}

// cutPayload gives the base64 of a media message.
func cutPayload(message []byte) (text []byte, ok bool) {
	_, rest, ok := bytes.Cut(message, []byte(`"payload"`))
	if !ok {
		return nil, false
	}
	if rest = bytes.TrimLeft(rest, ": "); len(rest) == 0 || rest[0] != '"' {
		return nil, false
	}
	text, _, ok = bytes.Cut(rest[1:], []byte(`"`))
	return text, ok
}

func (p *phone) hangup() {
	p.mu.Lock()
	p.hung = true
	p.mu.Unlock()
	if p.call.format == audio.Ulaw8 {
		p.say(fmt.Appendf(nil, `{"event":"stop","sequenceNumber":"0","streamSid":"%s","stop":{"callSid":"CA%d"}}`, p.id, p.call.order.Sid))
	}
	p.sayAs(wire.Close, []byte{3, 232}) // 1000
}

func (p *phone) ended() <-chan struct{} { return p.over }

func (p *phone) close() ending {
	if p.sender == nil {
		return ending{"CANCELLED", "never opened"}
	}
	close(p.done)
	p.socket.Close()
	<-p.over
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hung {
		return ending{"OK", "hung up"}
	}
	return p.end
}
