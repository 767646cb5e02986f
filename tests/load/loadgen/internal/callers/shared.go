package callers

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"parley.dev/loadgen/internal/clock"
	"parley.dev/loadgen/internal/meter"
)

// A protocol is what the shared streams of floor and Parley differ in.
type protocol interface {
	method() string
	// frame appends one frame of a rider.
	frame(b []byte, r *rider, frame int64) []byte
	// take takes a message that came, with the trunk's lock.
	take(t *trunk, now int64, message []byte) error
}

// A rider is a leg on a shared stream.
type rider struct {
	call     *call
	protocol protocol
	handle   uint64 // its number on the stream
	hello    func(handle uint64) []byte
	goodbye  func(handle uint64) []byte // nil where there is none
	listener *listener

	trunk  *trunk
	lot    int // the part of the 20 ms that carries it, -1 while silent
	ready  chan struct{}
	over   chan struct{}
	ending ending
	hung   bool // goodbye was said
}

func newRider(c *call, p protocol) *rider {
	return &rider{call: c, protocol: p, lot: -1, ready: make(chan struct{}), over: make(chan struct{})}
}

type trunkKey struct {
	protocol string
	target   Target
	number   int
}

// shared has the streams that calls share.
type shared struct {
	mu     sync.Mutex
	trunks map[trunkKey]*trunk
}

// get gives a stream, opened when it is not there.
func (s *shared) get(p *Pool, protocol protocol, target Target, number int) (*trunk, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := trunkKey{protocol.method(), target, number}
	if t := s.trunks[key]; t != nil {
		return t, nil
	}
	t, err := openTrunk(p, protocol, target)
	if err != nil {
		return nil, err
	}
	if s.trunks == nil {
		s.trunks = map[trunkKey]*trunk{}
	}
	s.trunks[key] = t
	go func() {
		<-t.over
		s.mu.Lock()
		delete(s.trunks, key)
		s.mu.Unlock()
	}()
	return t, nil
}

// A trunk is one stream with many calls. Each part of its 20 ms carries its share of the calls in one message.
type trunk struct {
	pool     *Pool
	protocol protocol
	conn     *grpc.ClientConn
	client   grpc.ClientStream
	over     chan struct{}

	mu     sync.Mutex
	riders map[uint64]*rider
	last   uint64 // handle given
	lots   [][]*rider
	others []byte // messages besides audio, for the next part
	size   int    // of the largest part so far
}

func openTrunk(p *Pool, protocol protocol, target Target) (*trunk, error) {
	conn, err := target.dial()
	if err != nil {
		return nil, err
	}
	client, err := conn.NewStream(context.Background(), bidirectional, protocol.method())
	if err != nil {
		conn.Close()
		return nil, err
	}
	t := &trunk{pool: p, protocol: protocol, conn: conn, client: client, over: make(chan struct{}), riders: map[uint64]*rider{},
		lots: make([][]*rider, p.Subticks)}
	go t.receive()
	go t.pace()
	return t, nil
}

func (t *trunk) receive() {
	var take any = receiver(func(message []byte) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.protocol.take(t, clock.Now(), message)
	})
	var err error
	for err == nil {
		err = t.client.RecvMsg(take)
	}
	code, reason := verdict(t.client, err)
	t.mu.Lock()
	for _, r := range t.riders {
		r.finish(ending{code, reason})
	}
	t.mu.Unlock()
	close(t.over)
	t.conn.Close()
}

// pace sends one part after the other. A frame's time is when its message is sent; where the worker did not take
// the one before in time, it is when it was due, and what has waited too long is left out.
func (t *trunk) pace() {
	period := int64(FramePeriod / len(t.lots))
	var free int64 // when the last message was taken
	for i, due := 0, clock.Now()+period; ; i, due = (i+1)%len(t.lots), due+period {
		clock.Until(due)
		select {
		case <-t.over:
			return
		default:
		}
		now := clock.Now()
		stamp := now
		if free > due {
			stamp = due
		} else {
			t.pool.Registry.Meter.Shard(int64(i)).Record(meter.Lag, now-due)
		}
		if now-due > waiting*FramePeriod {
			t.skip(i)
			continue
		}
		for _, message := range t.part(i, stamp) {
			if t.client.SendMsg(message) != nil {
				return
			}
			free = clock.Now()
		}
	}
}

// skip leaves a part out that has waited too long for the worker.
func (t *trunk) skip(i int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.lots[i] {
		r.call.shard().Add(meter.FramesUnsent, 1)
	}
}

// largest bounds one message: workers take 1 MiB.
const largest = 900_000

// part builds the next messages; there is rarely more than one.
func (t *trunk) part(i int, now int64) (messages []mem.BufferSlice) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lots[i]) == 0 && len(t.others) == 0 {
		return nil
	}
	buffer := buffers.Get(t.size)
	b := append((*buffer)[:0], t.others...)
	t.others = t.others[:0]
	for _, r := range t.lots[i] {
		if len(b) > largest {
			messages = append(messages, bytesMessage(b))
			b = nil
		}
		b = t.protocol.frame(b, r, r.call.session.Sent(now))
	}
	t.size = max(t.size, len(b))
	if len(messages) > 0 {
		return append(messages, bytesMessage(b))
	}
	*buffer = b
	return []mem.BufferSlice{{mem.NewBuffer(buffer, &buffers)}}
}

// board puts a rider on the stream and says hello, with the next part.
func (t *trunk) board(r *rider) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.over:
		return false
	default:
	}
	if r.handle == 0 {
		t.last++
		r.handle = t.last
	}
	r.trunk = t
	t.riders[r.handle] = r
	t.others = append(t.others, r.hello(r.handle)...)
	return true
}

func (r *rider) open(ctx context.Context) *ending {
	for range 2 { // a stream that has just ended is opened anew
		t, err := r.call.pool.shared.get(r.call.pool, r.protocol, r.call.order.target(), r.call.order.Stream)
		if err != nil {
			code, reason := verdict(nil, err)
			return &ending{code, reason}
		}
		if t.board(r) {
			break
		}
	}
	if r.trunk == nil {
		return &ending{"UNAVAILABLE", "the shared stream ended"}
	}
	select {
	case <-r.ready:
		return nil
	case <-r.over:
		return &r.ending
	case <-ctx.Done():
		return &ending{"CANCELLED", "cancelled"}
	}
}

func (r *rider) hangup() {
	r.trunk.mu.Lock()
	defer r.trunk.mu.Unlock()
	if r.goodbye == nil {
		r.finish(ending{"OK", "hung up"})
	} else {
		r.sayGoodbye()
	}
}

// sayGoodbye is called with the trunk's lock.
func (r *rider) sayGoodbye() {
	if !r.hung && r.goodbye != nil {
		r.hung = true
		r.trunk.others = append(r.trunk.others, r.goodbye(r.handle)...)
	}
}

func (r *rider) flow() {
	t := r.trunk
	t.mu.Lock()
	defer t.mu.Unlock()
	least := 0
	for i := range t.lots {
		if len(t.lots[i]) < len(t.lots[least]) {
			least = i
		}
	}
	t.lots[least] = append(t.lots[least], r)
	r.lot = least
}

func (r *rider) silence() {
	t := r.trunk
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.lot < 0 {
		return
	}
	lot := t.lots[r.lot]
	for i := range lot {
		if lot[i] == r {
			t.lots[r.lot] = append(lot[:i], lot[i+1:]...)
			break
		}
	}
	r.lot = -1
}

// finish is called with the trunk's lock.
func (r *rider) finish(e ending) {
	select {
	case <-r.over:
	default:
		r.ending = e
		close(r.over)
	}
}

func (r *rider) ended() <-chan struct{} { return r.over }

func (r *rider) close() ending {
	if r.trunk == nil {
		return ending{"CANCELLED", "never opened"}
	}
	r.silence()
	r.trunk.mu.Lock()
	defer r.trunk.mu.Unlock()
	if r.trunk.riders[r.handle] == r {
		delete(r.trunk.riders, r.handle)
	}
	select {
	case <-r.over:
	default:
		r.sayGoodbye()
		r.finish(ending{"CANCELLED", "cancelled"})
	}
	return r.ending
}
