package provider

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"parley.dev/loadgen/internal/audio"
)

const ms = 1_000_000

// recorder keeps what a conversation says: the types of events, runs of deltas as one.
type recorder struct {
	events   []map[string]any
	answers  map[int64]int // milliseconds
	finished map[int64]bool
}

func (r *recorder) Text(event []byte) {
	var m map[string]any
	if err := json.Unmarshal(event, &m); err != nil {
		panic(err)
	}
	r.events = append(r.events, m)
}

func (r *recorder) Delta(head, text []byte, answer int64, millis int) {
	r.Text([]byte(string(head) + string(text) + `"}`))
	r.answers[answer] += millis
}

func (r *recorder) Finished(answer int64, cut bool) { r.finished[answer] = cut }

func (r *recorder) types() (out []string) {
	for _, e := range r.events {
		kind := e["type"].(string)
		if len(out) == 0 || out[len(out)-1] != kind {
			out = append(out, kind)
		}
	}
	return out
}

func (r *recorder) of(kind string) (out []map[string]any) {
	for _, e := range r.events {
		if e["type"] == kind {
			out = append(out, e)
		}
	}
	return out
}

func begin(settings Settings) (*Conversation, *recorder) {
	r := &recorder{answers: map[int64]int{}, finished: map[int64]bool{}}
	return NewConversation(7, func() *Settings { return &settings }, r), r
}

var usual = Settings{Cycle: 4, AudioMillis: 3000, ChunkMillis: 150, Speed: 2.5}

func update(t *testing.T, c *Conversation, session string) {
	t.Helper()
	if err := c.Event(0, []byte(`{"type":"session.update","session":`+session+`}`)); err != nil {
		t.Fatal(err)
	}
}

// speak says frames of 20 ms in real time, and steps the answer as the wheel would.
func speak(c *Conversation, now int64, frames int) int64 {
	for range frames {
		for due := c.Due(); due != 0 && due <= now; due = c.Due() {
			c.Step(due)
		}
		c.Appended(now, c.Input.Frame)
		now += 20 * ms
	}
	return now
}

func TestATurnAndItsAnswer(t *testing.T) {
	c, r := begin(usual)
	update(t, c, `{"type":"realtime","instructions":"be kind sid=3"}`)
	now := speak(c, 0, 200) // the first turn ends within 4.6 s at the latest
	speak(c, now, 130)
	want := []string{"session.created", "session.updated", "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped",
		"input_audio_buffer.committed", "conversation.item.added", "conversation.item.done", "response.created",
		"response.output_item.added", "conversation.item.added", "response.content_part.added"}
	types := r.types()
	if got := strings.Join(types[:len(want)], " "); got != strings.Join(want, " ") {
		t.Fatalf("began with %s", got)
	}
	ends := []string{"response.output_audio.done", "response.output_audio_transcript.done", "response.content_part.done",
		"conversation.item.done", "response.output_item.done", "response.done"}
	if got := strings.Join(types, " "); !strings.Contains(got, strings.Join(ends, " ")) {
		t.Fatalf("no such end in %s", got)
	}
	deltas := r.of("response.output_audio.delta")
	if r.answers[Key(7, 0)] != 3000 || len(deltas) < 20 || r.finished[Key(7, 0)] {
		t.Errorf("%d deltas, %v, %v", len(deltas), r.answers, r.finished)
	}
	sound, err := base64.StdEncoding.DecodeString(deltas[0]["delta"].(string))
	if err != nil || len(sound) != 7200 || deltas[0]["item_id"] != "item_a000007_0" || deltas[0]["event_id"] == deltas[1]["event_id"] {
		t.Errorf("%d bytes, %v, %v", len(sound), err, deltas[0]["item_id"])
	}
	said := ""
	for _, e := range r.of("response.output_audio_transcript.delta")[:10] {
		said += e["delta"].(string)
	}
	whole := r.of("response.output_audio_transcript.done")[0]["transcript"].(string)
	if strings.TrimSpace(said) != whole {
		t.Errorf("said %q of %q", said, whole)
	}
	if usage := r.of("response.done")[0]["response"].(map[string]any)["usage"].(map[string]any); usage["total_tokens"] != 253. {
		t.Errorf("%v", usage)
	}
}

func TestTurnsKeepTheirCycleWhateverTheAmounts(t *testing.T) {
	c, r := begin(usual)
	var now int64
	for range 400 { // 100 ms at once
		c.Appended(now, 4800)
		for due := c.Due(); due != 0; due = c.Due() {
			c.Step(due)
		}
		now += 100 * ms
	}
	stops := r.of("input_audio_buffer.speech_stopped")
	if len(stops) < 9 {
		t.Fatalf("%d turns", len(stops))
	}
	for i := 1; i < len(stops); i++ {
		if d := stops[i]["audio_end_ms"].(float64) - stops[i-1]["audio_end_ms"].(float64); d != 4000 {
			t.Errorf("turn %d took %v ms", i, d)
		}
	}
	starts := r.of("input_audio_buffer.speech_started")
	if d := stops[0]["audio_end_ms"].(float64) - starts[0]["audio_start_ms"].(float64); d < 400 || d > 500 {
		t.Errorf("speech began %v ms before the turn's end", d)
	}
}

func TestTurnsOfSessionsAreSpread(t *testing.T) {
	var ends []int
	for sid := range 100 {
		c, r := begin(usual)
		update(t, c, fmt.Sprintf(`{"instructions":"sid=%d"}`, sid))
		start := int64(sid) * 4000 * ms // worst case: all calls begin at the same phase of the cycle
		now := start
		for len(r.of("input_audio_buffer.speech_stopped")) == 0 {
			c.Appended(now, 960)
			now += 20 * ms
		}
		if took := (now - start) / ms; took < 600 || took > 4700 {
			t.Fatalf("the first turn of %d took %d ms", sid, took)
		}
		ends = append(ends, int(now/ms)%4000/400)
	}
	tenths := make([]int, 10)
	for _, e := range ends {
		tenths[e]++
	}
	for i, n := range tenths {
		if n < 7 || n > 13 {
			t.Errorf("%d of 100 turns end in tenth %d", n, i)
		}
	}
}

func TestDeltasKeepTheirSchedule(t *testing.T) {
	c, r := begin(usual)
	if err := c.Event(1000*ms, []byte(`{"type":"response.create"}`)); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 20; i++ {
		if due := c.Due(); due != 1000*ms+int64(i)*60*ms {
			t.Fatalf("piece %d is due at %d", i, due)
		}
		c.Step(c.Due() + 3*ms) // always late: the next is not
	}
	if c.Due() != 0 || len(r.of("response.done")) != 1 {
		t.Error("did not end")
	}
}

func TestABurst(t *testing.T) {
	hasty := usual
	hasty.Burst, hasty.Rates = true, true
	c, r := begin(hasty)
	_ = c.Event(0, []byte(`{"type":"response.create"}`))
	if r.answers[Key(7, 0)] != 3000 || len(r.of("response.done")) != 1 || len(r.of("rate_limits.updated")) != 1 {
		t.Errorf("%v", r.types())
	}
}

func TestMulawByUpdate(t *testing.T) {
	c, r := begin(usual)
	update(t, c, `{"audio":{"input":{"format":{"type":"audio/pcmu"}},"output":{"format":{"type":"audio/pcmu"}}}}`)
	if c.Input != audio.Ulaw8 || c.Output != audio.Ulaw8 || c.Sid != -1 {
		t.Fatal(c.Input.Name, c.Output.Name, c.Sid)
	}
	updated := r.of("session.updated")[0]["session"].(map[string]any)["audio"].(map[string]any)["output"].(map[string]any)
	if updated["voice"] != "marin" || updated["format"].(map[string]any)["type"] != "audio/pcmu" {
		t.Errorf("%v", updated)
	}
	_ = c.Event(0, []byte(`{"type":"response.create"}`))
	sound, _ := base64.StdEncoding.DecodeString(r.of("response.output_audio.delta")[0]["delta"].(string))
	if len(sound) != 1200 {
		t.Errorf("150 ms are %d bytes", len(sound))
	}
}

func TestWithoutTurnDetectionNothingIsSaid(t *testing.T) {
	c, r := begin(usual)
	update(t, c, `{"audio":{"input":{"turn_detection":null}}}`)
	speak(c, 0, 500)
	if len(r.events) != 2 {
		t.Errorf("%v", r.types())
	}
}

func TestTurnsThatTheClientAnswers(t *testing.T) {
	c, r := begin(usual)
	update(t, c, `{"audio":{"input":{"turn_detection":{"type":"server_vad","create_response":false}}}}`)
	speak(c, 0, 500)
	if len(r.of("input_audio_buffer.committed")) == 0 || len(r.of("response.created")) != 0 {
		t.Errorf("%v", r.types())
	}
}

func TestCancelAndOverlap(t *testing.T) {
	c, r := begin(usual)
	for _, e := range []string{`{"type":"response.cancel"}`, `{"type":"response.create","response":{"metadata":{"k":"v"}}}`,
		`{"type":"response.create"}`, `{"type":"response.cancel"}`} {
		if err := c.Event(0, []byte(e)); err != nil {
			t.Fatal(err)
		}
	}
	var codes []string
	for _, e := range r.of("error") {
		codes = append(codes, e["error"].(map[string]any)["code"].(string))
	}
	if strings.Join(codes, " ") != "response_cancel_not_active conversation_already_has_active_response" {
		t.Error(codes)
	}
	done := r.of("response.done")[0]["response"].(map[string]any)
	if done["status"] != "cancelled" || done["metadata"].(map[string]any)["k"] != "v" || !r.finished[Key(7, 0)] || c.Due() != 0 {
		t.Errorf("%v", done)
	}
}

func TestOtherEvents(t *testing.T) {
	c, r := begin(usual)
	for _, e := range []string{`{"type":"conversation.item.create","item":{"id":"i1","type":"message"}}`,
		`{"type":"conversation.item.truncate","item_id":"i1","audio_end_ms":5}`, `{"type":"conversation.item.delete","item_id":"i1"}`,
		`{"type":"input_audio_buffer.clear"}`, `{"type":"input_audio_buffer.commit"}`} {
		if err := c.Event(0, []byte(e)); err != nil {
			t.Fatal(err)
		}
	}
	want := "session.created conversation.item.added conversation.item.done conversation.item.truncated conversation.item.deleted " +
		"input_audio_buffer.cleared input_audio_buffer.committed conversation.item.added conversation.item.done"
	if got := strings.Join(r.types(), " "); got != want {
		t.Error(got)
	}
	if got := r.of("input_audio_buffer.committed")[0]["previous_item_id"]; got != "i1" {
		t.Error(got)
	}
	for _, bad := range []string{`{"type":"no.such"}`, `[1]`, `{`, `{}`} {
		if c.Event(0, []byte(bad)) == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

func TestKeysOfItems(t *testing.T) {
	if key, ok := KeyOf([]byte("item_a000123_45")); !ok || key != Key(123, 45) {
		t.Error(key, ok)
	}
	for _, other := range []string{"item_u000123_45", "item_a12", "", "item_ax_y"} {
		if _, ok := KeyOf([]byte(other)); ok {
			t.Errorf("%s is taken", other)
		}
	}
}

func TestCutAppend(t *testing.T) {
	sound := strings.Repeat("QUJD", 320)
	for _, event := range []string{
		`{"type":"input_audio_buffer.append","audio":"` + sound + `"}`,
		`{"type": "input_audio_buffer.append", "audio": "` + sound + `"}`,
		`{"event_id":"e1","type":"input_audio_buffer.append","audio":"` + sound + `"}`,
		`{"audio":"` + sound + `","type":"input_audio_buffer.append"}`,
	} {
		if text, ok := cutAppend([]byte(event)); !ok || string(text) != sound {
			t.Errorf("%.60s: %v", event, ok)
		}
	}
	for _, event := range []string{
		`{"type":"response.create"}`, `{"type":"session.update","session":{"audio":{}}}`,
		`{"type":"input_audio_buffer.append"}`, `{"type":"input_audio_buffer.append","audio":3}`, `{"type":"input_audio_buffer.append","audio":"QUJD`,
	} {
		if _, ok := cutAppend([]byte(event)); ok {
			t.Errorf("%s is taken", event)
		}
	}
	for text, want := range map[string]int{"": 0, "QUJD": 3, "QUI=": 2, "QQ==": 1, "QUJ": -1} {
		if got := decodedSize([]byte(text)); got != want {
			t.Errorf("%q: %d", text, got)
		}
	}
}
