// Package audio makes, once, all sound that callers and provider send.
package audio

import (
	"encoding/base64"
	"fmt"
	"math"
	"math/rand/v2"
)

// Format is an encoding with its rate.
type Format struct {
	Name string
	// Bytes of 20 ms.
	Frame int
}

// The formats of callers and provider.
var (
	PCM24 = &Format{"pcm24", 960}
	Ulaw8 = &Format{"ulaw8", 160}
)

// ByName finds a format.
func ByName(name string) (*Format, error) {
	for _, f := range []*Format{PCM24, Ulaw8} {
		if f.Name == name {
			return f, nil
		}
	}
	return nil, fmt.Errorf("format %q is unknown: give pcm24 or ulaw8", name)
}

// Millis is how long so many bytes last.
func (f *Format) Millis(n int) float64 { return float64(n) * 20 / float64(f.Frame) }

// Frames is how many different frames a caller says, one after the other and then from the start.
const Frames = 256

// Mark is how many characters of base64 tell one of a caller's frames from all others.
const Mark = 16

// Speech is what callers say: 20 ms frames, of which no two begin alike.
type Speech struct {
	Format *Format
	Frames [Frames][]byte
	// Base64 of the frames, for transports that carry text.
	Text   [Frames][]byte
	number map[[Mark]byte]int
}

var speeches = map[*Format]*Speech{PCM24: newSpeech(PCM24), Ulaw8: newSpeech(Ulaw8)}

// SpeechOf gives the speech of a format.
func SpeechOf(f *Format) *Speech { return speeches[f] }

func newSpeech(f *Format) *Speech {
	s := &Speech{Format: f, number: make(map[[Mark]byte]int, Frames)}
	noise := rand.New(rand.NewPCG(1, 2))
	at := 0
	for k := range s.Frames {
		s.Frames[k] = f.encode(func(i int, t float64) float64 {
			return 5000*math.Sin(2*math.Pi*300*t) + 1500*(noise.Float64()-0.5)
		}, at, 20)
		at += 20
		s.Text[k] = []byte(base64.StdEncoding.EncodeToString(s.Frames[k]))
		s.number[[Mark]byte(s.Text[k])] = k
	}
	return s
}

// Find tells which frame some base64 begins with; ok is false when it is none.
func (s *Speech) Find(text []byte) (k int, ok bool) {
	if len(text) < Mark {
		return 0, false
	}
	k, ok = s.number[[Mark]byte(text)]
	return k, ok
}

// encode samples `wave`, from `at` milliseconds on.
func (f *Format) encode(wave func(i int, t float64) float64, at, millis int) []byte {
	rate := 8000
	if f == PCM24 {
		rate = 24000
	}
	first := at * rate / 1000
	out := make([]byte, 0, f.Frame*millis/20)
	for i := first; i < first+millis*rate/1000; i++ {
		v := int(wave(i, float64(i)/float64(rate)))
		if f == PCM24 {
			out = append(out, byte(v), byte(v>>8))
		} else {
			out = append(out, ulaw(v))
		}
	}
	return out
}

// ulaw is ITU-T G.711 mu-law of a 16-bit sample.
func ulaw(v int) byte {
	sign := 0
	if v < 0 {
		sign, v = 0x80, -v
	}
	v = min(v, 32635) + 132
	exponent := 0
	for m := v >> 8; m > 0; m >>= 1 {
		exponent++
	}
	return byte(^(sign | exponent<<4 | v>>(exponent+3)&15))
}

// A Piece is one delta of an answer.
type Piece struct {
	Text   []byte // base64
	Millis int
}

// Answer is `millis` of sound in pieces of `piece` milliseconds, as base64.
func Answer(f *Format, millis, piece int) []Piece {
	sound := f.encode(func(i int, t float64) float64 {
		return 9000*math.Sin(2*math.Pi*440*t) + 3000*math.Sin(2*math.Pi*1230*t)
	}, 0, millis)
	var pieces []Piece
	size := f.Frame * piece / 20
	for at := 0; at < len(sound); at += size {
		part := sound[at:min(at+size, len(sound))]
		pieces = append(pieces, Piece{[]byte(base64.StdEncoding.EncodeToString(part)), int(f.Millis(len(part)))})
	}
	return pieces
}

// Silent tells whether all samples are the same.
func Silent(payload []byte) bool {
	for _, b := range payload {
		if b != payload[0] {
			return false
		}
	}
	return true
}
