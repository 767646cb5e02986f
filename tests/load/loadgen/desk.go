package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"parley.dev/loadgen/internal/callers"
	"parley.dev/loadgen/internal/clock"
	"parley.dev/loadgen/internal/meter"
	"parley.dev/loadgen/internal/provider"
)

// A desk takes commands and writes events.
type desk struct {
	registry *meter.Registry
	wheel    *clock.Wheel
	server   *provider.Server
	pool     *callers.Pool

	mu  sync.Mutex
	out io.Writer
}

// say writes an event as one line.
func (d *desk) say(event map[string]any) {
	b, err := json.Marshal(event)
	if err != nil {
		panic(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, _ = d.out.Write(append(b, '\n'))
}

// sweep settles what nobody touches any more.
func (d *desk) sweep() {
	for range time.Tick(250 * time.Millisecond) {
		d.registry.Sweep(clock.Now())
	}
}

// read carries out commands to the end of the input.
func (d *desk) read(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 4096), 1<<20)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		if err := d.carryOut(lines.Bytes()); err != nil {
			d.say(map[string]any{"event": "error", "message": err.Error()})
		}
	}
	return lines.Err()
}

// command is every command's fields but those of "call".
type command struct {
	Op      string  `json:"op"`
	Sid     int64   `json:"sid"`
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	Path    string  `json:"path"`
	On      *bool   `json:"on"`

	// of "provider"
	Cycle          *float64 `json:"cycle"`
	AudioS         *float64 `json:"audio_s"`
	ChunkMS        *int     `json:"chunk_ms"`
	Speed          *float64 `json:"speed"`
	Rates          *bool    `json:"rates"`
	Burst          *bool    `json:"burst"`
	ConnectDelayMS *float64 `json:"connect_delay_ms"`
}

func (d *desk) carryOut(line []byte) error {
	var c command
	if err := json.Unmarshal(line, &c); err != nil {
		return fmt.Errorf("a command is no JSON object of the README: %w", err)
	}
	switch c.Op {
	case "call":
		var o callers.Order
		if err := json.Unmarshal(line, &o); err != nil {
			return fmt.Errorf("a call is malformed: %w", err)
		}
		if err := d.pool.Call(o); err != nil {
			d.say(map[string]any{"event": "refused", "sid": o.Sid, "status": "INVALID_ARGUMENT", "reason": err.Error()})
		}
		return nil
	case "stop":
		return d.pool.Stop(c.Sid)
	case "stop_all":
		d.pool.StopAll()
	case "window":
		if c.Seconds <= 0 {
			return fmt.Errorf("seconds is %g: give how long the window is to be", c.Seconds)
		}
		go d.window(c.Name, c.Seconds)
	case "provider":
		return d.setProvider(&c)
	case "raw":
		on := c.On == nil || *c.On
		d.server.Raw.Store(on)
		d.pool.Raw.Store(on)
	case "dump":
		return d.dump(c.Path)
	case "provider_log":
		n, err := d.server.WriteLogs(c.Path)
		if err == nil {
			d.say(map[string]any{"event": "provider_log", "path": c.Path, "connections": n})
		}
		return err
	default:
		return fmt.Errorf("op %q is unknown: give call, stop, stop_all, window, provider, raw, dump or provider_log", c.Op)
	}
	return nil
}

func (d *desk) setProvider(c *command) error {
	s := *d.server.Settings()
	set(&s.Cycle, c.Cycle)
	set(&s.ChunkMillis, c.ChunkMS)
	set(&s.Speed, c.Speed)
	set(&s.Rates, c.Rates)
	set(&s.Burst, c.Burst)
	if c.AudioS != nil {
		s.AudioMillis = int(*c.AudioS * 1000)
	}
	if c.ConnectDelayMS != nil {
		s.ConnectDelay = int64(*c.ConnectDelayMS * 1e6)
	}
	if err := checkSettings(s); err != nil {
		return err
	}
	d.server.Set(s)
	return nil
}

func set[T any](at *T, value *T) {
	if value != nil {
		*at = *value
	}
}

// window measures from now on.
func (d *desk) window(name string, seconds float64) {
	began, before, used := clock.Now(), d.registry.Meter.Snapshot(), cpu()
	time.Sleep(time.Duration(seconds * float64(time.Second)))
	after := d.registry.Meter.Snapshot()
	ended := clock.Now()
	event := after.Since(before)
	event["event"], event["name"] = "window", name
	event["seconds"] = clock.Seconds(ended - began)
	event["from"], event["to"] = clock.Seconds(began), clock.Seconds(ended)
	event["sessions"] = d.pool.Sessions()
	event["provider_sessions"] = d.server.Open()
	event["loadgen_cpu_s"] = cpu() - used
	d.say(event)
}

// cpu is the CPU time of this process in seconds.
func cpu() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func (d *desk) dump(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	raws := d.pool.Raws()
	if err := json.NewEncoder(file).Encode(map[string]any{"n": len(raws), "sessions": raws}); err != nil {
		return err
	}
	d.say(map[string]any{"event": "dump", "path": path, "sessions": len(raws)})
	return nil
}
