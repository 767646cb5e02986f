package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// lines keeps what is written.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// converse runs the program on some commands, pausing after each, and gives its events.
func converse(t *testing.T, arguments []string, commands ...string) (events []map[string]any) {
	t.Helper()
	o, err := parse(append([]string{"-provider", "127.0.0.1:0"}, arguments...))
	if err != nil {
		t.Fatal(err)
	}
	in, commander := io.Pipe()
	out := new(lines)
	go func() {
		for _, c := range commands {
			_, _ = io.WriteString(commander, c+"\n")
		}
		time.Sleep(300 * time.Millisecond)
		commander.Close()
	}()
	if err := run(o, in, out); err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		events = append(events, e)
	}
	return events
}

func TestAWindowHasEveryField(t *testing.T) {
	events := converse(t, nil, `{"op":"window","name":"w1","seconds":0.1}`)
	if len(events) != 2 || events[0]["event"] != "listening" {
		t.Fatalf("%v", events)
	}
	w := events[1]
	for _, number := range []string{"seconds", "from", "to", "sessions", "frames_sent", "frames_at_provider", "drops_up", "frames_due",
		"frames_received", "drops_down", "underruns", "responses", "responses_complete", "events_received", "loadgen_cpu_s", "provider_sessions"} {
		if _, ok := w[number].(float64); !ok {
			t.Errorf("%s is %v", number, w[number])
		}
	}
	for _, latency := range []string{"up", "first", "late", "down", "heard", "loadgen_lag", "stall"} {
		h, ok := w[latency].(map[string]any)
		if !ok || h["buckets"] == nil || h["p999"] == nil {
			t.Errorf("%s is %v", latency, w[latency])
		}
	}
	if w["name"] != "w1" || w["loadgen_lag"].(map[string]any)["count"].(float64) < 50 {
		t.Errorf("%v", w)
	}
}

func TestBadCommandsAreToldAndHarmNothing(t *testing.T) {
	events := converse(t, nil, `{"op":"dance"}`, `no json`, ``, `{"op":"stop","sid":4}`, `{"op":"window"}`, `{"op":"provider","speed":0.5}`,
		`{"op":"dump","path":"/no/such/folder/f"}`, `{"op":"call","sid":3,"transport":"converse"}`, `{"op":"stop_all"}`)
	kinds := map[string]int{}
	for _, e := range events {
		kinds[e["event"].(string)]++
	}
	if kinds["error"] != 6 || kinds["refused"] != 1 || kinds["listening"] != 1 {
		t.Errorf("%v", events)
	}
}

func TestTheProviderChangesWhileItRuns(t *testing.T) {
	o, err := parse([]string{"-cycle", "2"})
	if err != nil {
		t.Fatal(err)
	}
	d := newDesk(o, io.Discard)
	if err := d.carryOut([]byte(`{"op":"provider","burst":true,"connect_delay_ms":250,"audio_s":1.5}`)); err != nil {
		t.Fatal(err)
	}
	if s := d.server.Settings(); !s.Burst || s.ConnectDelay != 250_000_000 || s.AudioMillis != 1500 || s.Cycle != 2 || s.Speed != 2.5 {
		t.Errorf("%+v", s)
	}
}

func TestDumps(t *testing.T) {
	folder := t.TempDir()
	events := converse(t, []string{"-raw"}, `{"op":"dump","path":"`+folder+`/d.json"}`, `{"op":"provider_log","path":"`+folder+`"}`)
	if len(events) != 3 || events[1]["event"] != "dump" || events[2]["event"] != "provider_log" {
		t.Fatalf("%v", events)
	}
	b, err := os.ReadFile(filepath.Join(folder, "d.json"))
	if err != nil || string(b) != `{"n":0,"sessions":[]}`+"\n" {
		t.Errorf("%s %v", b, err)
	}
}

func TestOptions(t *testing.T) {
	o, err := parse([]string{"-provider-tls", "c.pem", "k.pem", "-subticks", "1"})
	if err != nil || o.certificate != "c.pem" || o.key != "k.pem" || o.subticks != 1 {
		t.Errorf("%+v %v", o, err)
	}
	for _, bad := range [][]string{{"-provider-cert", "c"}, {"-subticks", "0"}, {"-speed", "0.5"}, {"-chunk-ms", "15"}, {"-cycle", "0"}, {"x"},
		{"-audio-s", "0"}, {"-connect-delay-ms", "-1"}, {"-conns", "0"}} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}
