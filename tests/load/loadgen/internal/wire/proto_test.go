package wire

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"parley.dev/loadgen/internal/audio"
)

// Messages are built and read by protobuf's own library, so that both codings must agree.

func field(b []byte, n protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
}

func number(b []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
}

// read gives a message's fields: integers as uint64, bytes as strings.
func read(t *testing.T, b []byte) map[protowire.Number]any {
	t.Helper()
	out := map[protowire.Number]any{}
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			t.Fatal(protowire.ParseError(size))
		}
		b = b[size:]
		switch kind {
		case protowire.VarintType:
			v, size := protowire.ConsumeVarint(b)
			out[n], b = v, b[max(size, 0):]
		case protowire.BytesType:
			v, size := protowire.ConsumeBytes(b)
			if size < 0 {
				t.Fatal(protowire.ParseError(size))
			}
			out[n], b = string(v), b[size:]
		}
	}
	return out
}

func TestStart(t *testing.T) {
	start := read(t, []byte(read(t, Start("tick", "uid-7", audio.Ulaw8, false))[1].(string)))
	if start[1] != "tick" || start[8] != "uid-7" || start[5] != uint64(1) || start[13] != "none" {
		t.Errorf("%v", start)
	}
	for _, n := range []protowire.Number{3, 4} {
		if f := read(t, []byte(start[n].(string))); f[1] != uint64(2) || f[2] != uint64(8000) {
			t.Errorf("format %d: %v", n, f)
		}
	}
}

func TestAudioHead(t *testing.T) {
	for _, sequence := range []uint64{1, 2, 127, 128, 70000} {
		payload := bytes.Repeat([]byte{7}, 960)
		message := append(AudioHead(nil, sequence, len(payload)), payload...)
		frame := read(t, []byte(read(t, message)[2].(string)))
		at, _ := frame[3].(uint64)
		if frame[2] != sequence || frame[1] != string(payload) || at != (sequence-1)*20 {
			t.Errorf("sequence %d gives %v, %v", sequence, frame[2], at)
		}
	}
}

func TestAnswers(t *testing.T) {
	if m := read(t, []byte(read(t, MarkPlayed([]byte("m1"), 3))[5].(string))); m[1] != "m1" || m[2] != uint64(3) {
		t.Errorf("%v", m)
	}
	if m := read(t, []byte(read(t, Cleared(9))[6].(string))); m[1] != uint64(9) {
		t.Errorf("%v", m)
	}
	if m := read(t, Hangup()); m[10] != "" {
		t.Errorf("%v", m)
	}
}

func TestResponses(t *testing.T) {
	agent := number(field(field(nil, 1, []byte("pcm")), 2, []byte("item")), 4, 5)
	agent = number(number(agent, 5, 44), 6, 800)
	agent = protowire.AppendFixed64(protowire.AppendTag(agent, 99, protowire.Fixed64Type), 1)
	for name, c := range map[string]struct {
		message []byte
		want    Response
	}{
		"audio":   {field(nil, 2, agent), Response{Kind: Audio, Payload: []byte("pcm"), Item: []byte("item"), Epoch: 5}},
		"clear":   {field(nil, 3, number(number(nil, 1, 6), 2, 1)), Response{Kind: Clear, Epoch: 6}},
		"mark":    {field(nil, 4, number(field(nil, 1, []byte("m")), 2, 7)), Response{Kind: Mark, Name: []byte("m"), Epoch: 7}},
		"event":   {field(nil, 5, number(nil, 1, 1)), Response{Kind: Event}},
		"ended":   {field(nil, 8, field(nil, 1, []byte("CallerHangup"))), Response{Kind: Ended, Reason: []byte("CallerHangup")}},
		"unknown": {field(nil, 77, nil), Response{Kind: 77}},
	} {
		got, err := ParseResponse(c.message)
		if err != nil || got.Kind != c.want.Kind || got.Epoch != c.want.Epoch || !bytes.Equal(got.Payload, c.want.Payload) ||
			!bytes.Equal(got.Item, c.want.Item) || !bytes.Equal(got.Name, c.want.Name) || !bytes.Equal(got.Reason, c.want.Reason) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestFloor(t *testing.T) {
	up := read(t, append(FloorUp(300, 4), "abcd"...))
	if up[1] != uint64(300) || up[2] != "abcd" {
		t.Errorf("%v", up)
	}
	if sound, err := FloorDown(field(number(nil, 1, 4), 2, []byte("xy"))); err != nil || string(sound) != "xy" {
		t.Errorf("%q, %v", sound, err)
	}
	tick := AppendFloorFrame(AppendFloorFrame(nil, 0, 0, nil), 600, 8, bytes.Repeat([]byte{1}, 960))
	var sids []uint64
	var sizes []int
	if err := FloorTick(tick, func(sid uint64, a []byte) { sids, sizes = append(sids, sid), append(sizes, len(a)) }); err != nil {
		t.Fatal(err)
	}
	if len(sids) != 2 || sids[0] != 0 || sids[1] != 600 || sizes[0] != 0 || sizes[1] != 960 {
		t.Errorf("%v %v", sids, sizes)
	}
}

func TestBrokenMessages(t *testing.T) {
	whole := field(nil, 2, field(nil, 1, []byte("payload")))
	for cut := 1; cut < len(whole); cut++ {
		if _, err := ParseResponse(whole[:cut]); err == nil {
			t.Errorf("cut at %d is taken", cut)
		}
	}
	for _, b := range [][]byte{{0x00}, {0x0b}, {0x08}, {0x09, 1}, {0x0d, 1}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}} {
		if _, _, err := Next(b); err == nil {
			t.Errorf("% x is taken", b)
		}
	}
}
