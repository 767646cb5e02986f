package provider

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"parley.dev/loadgen/internal/audio"
)

// A Log is every time of one connection, for callers that this program does not play. Nil keeps nothing.
type Log struct {
	mu      sync.Mutex
	id      int64
	answers map[int64]int

	Sid    *int64      `json:"sid"`
	Rate   float64     `json:"rate_bytes_ms"`
	ApT    []float64   `json:"ap_t"`
	ApB    []int       `json:"ap_b"`
	Resp   [][]float64 `json:"resp"`
	Errors []string    `json:"errors"`
}

func newLog(id int64) *Log {
	return &Log{id: id, answers: map[int64]int{}, Rate: 48, ApT: []float64{}, ApB: []int{}, Resp: [][]float64{}, Errors: []string{}}
}

func (l *Log) named(sid int64, f *audio.Format) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Sid, l.Rate = &sid, float64(f.Frame)/20
}

func (l *Log) appended(now int64, n int) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ApB) > 0 {
		n += l.ApB[len(l.ApB)-1]
	}
	l.ApT, l.ApB = append(l.ApT, float64(now)/1e9), append(l.ApB, n)
}

func (l *Log) sent(now, answer int64) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	i, known := l.answers[answer]
	if !known {
		i = len(l.Resp)
		l.answers[answer] = i
		l.Resp = append(l.Resp, nil)
	}
	l.Resp[i] = append(l.Resp[i], float64(now)/1e9)
}

func (l *Log) failed(err error) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Errors = append(l.Errors, err.Error())
}

// write makes the file stub_SID_CONNECTION.json in a folder.
func (l *Log) write(folder string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	sid := "None"
	if l.Sid != nil {
		sid = fmt.Sprint(*l.Sid)
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, fmt.Sprintf("stub_%s_%d.json", sid, l.id)), b, 0o644)
}
