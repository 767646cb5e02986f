package audio

import (
	"encoding/base64"
	"testing"
)

func TestNoTwoFramesBeginAlike(t *testing.T) {
	for _, f := range []*Format{PCM24, Ulaw8} {
		s := SpeechOf(f)
		for k := range s.Frames {
			if len(s.Frames[k]) != f.Frame {
				t.Fatalf("%s: frame %d has %d bytes", f.Name, k, len(s.Frames[k]))
			}
			if found, ok := s.Find(s.Text[k]); !ok || found != k {
				t.Fatalf("%s: frame %d was taken for %d", f.Name, k, found)
			}
		}
		if _, ok := s.Find([]byte("AAAAAAAAAAAAAAAAAAAA")); ok {
			t.Errorf("%s: silence was taken for a frame", f.Name)
		}
		if _, ok := s.Find([]byte("AAAA")); ok {
			t.Errorf("%s: too little was taken for a frame", f.Name)
		}
	}
}

func TestAnswersHaveTheirLength(t *testing.T) {
	for _, f := range []*Format{PCM24, Ulaw8} {
		pieces := Answer(f, 3050, 150)
		millis, bytes := 0, 0
		for _, p := range pieces {
			millis += p.Millis
			sound, err := base64.StdEncoding.DecodeString(string(p.Text))
			if err != nil || Silent(sound) {
				t.Fatalf("%s: %v, or silent", f.Name, err)
			}
			bytes += len(sound)
		}
		if len(pieces) != 21 || millis != 3050 || f.Millis(bytes) != 3050 || pieces[20].Millis != 50 {
			t.Errorf("%s: %d pieces, %d ms, %d bytes", f.Name, len(pieces), millis, bytes)
		}
	}
}

func TestUlaw(t *testing.T) {
	// Values of ITU-T G.711: zero, the ends of the range, and one of the middle.
	for v, want := range map[int]byte{0: 0xff, -1: 0x7f, 32767: 0x80, -32768: 0x00, 1000: 0xce} {
		if got := ulaw(v); got != want {
			t.Errorf("%d gives %#x, not %#x", v, got, want)
		}
	}
}

func TestFormatsByName(t *testing.T) {
	if f, err := ByName("ulaw8"); err != nil || f != Ulaw8 {
		t.Error(f, err)
	}
	if _, err := ByName("opus"); err == nil {
		t.Error("opus is no format of this program")
	}
}
