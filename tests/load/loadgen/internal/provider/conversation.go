// Package provider is a server of the OpenAI Realtime protocol (GA shapes) whose turns are driven by the amount of
// audio that it gets.
package provider

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"sync/atomic"

	"parley.dev/loadgen/internal/audio"
)

// Settings steer all conversations; a change holds from the next turn, answer or connection on.
type Settings struct {
	Cycle        float64 // seconds of caller audio from turn to turn
	AudioMillis  int     // length of an answer
	ChunkMillis  int     // length of a delta
	Speed        float64 // deltas are sent that many times faster than they sound, at least 1
	Rates        bool    // send rate_limits.updated after each response.created
	Burst        bool    // send all deltas of an answer at once
	ConnectDelay int64   // nanoseconds before a handshake is answered
}

// Out is where a conversation's events go, in order. What it is given is good until it returns.
type Out interface {
	Text(event []byte)
	// Delta is a piece of an answer's audio: its event is head, text and `"}`.
	Delta(head, text []byte, answer int64, millis int)
	// Finished comes after the last delta of an answer, or where it was cut.
	Finished(answer int64, cut bool)
}

var (
	sidWord  = regexp.MustCompile(`sid=(\d+)`)
	eventIDs atomic.Int64
)

// words is what every answer says.
var words = []string{"Sure,", "I", "can", "help", "you", "with", "that.", "Could", "you", "tell", "me", "a", "little",
	"more", "about", "what", "you", "need", "today?"}

// A Conversation is one connection's state. Not safe for concurrent use.
type Conversation struct {
	ID            int64
	Sid           int64 // -1 until session.instructions tell it
	Input, Output *audio.Format

	settings func() *Settings
	out      Out
	detects  bool // the server finds turns
	creates  bool // and answers them
	session  map[string]any
	taken    int64   // bytes of audio
	turnAt   float64 // milliseconds of audio that end the turn; 0 before the first
	speaking bool
	turns    int
	item     string // of the turn that is spoken
	last     string // item of the conversation
	answers  int64
	active   *response
}

// NewConversation says session.created.
func NewConversation(id int64, settings func() *Settings, out Out) *Conversation {
	c := &Conversation{ID: id, Sid: -1, Input: audio.PCM24, Output: audio.PCM24,
		settings: settings, out: out, detects: true, creates: true}
	pcm := func() map[string]any { return map[string]any{"type": "audio/pcm", "rate": 24000} }
	c.session = map[string]any{
		"type": "realtime", "object": "realtime.session", "id": fmt.Sprintf("sess_%06d", id), "model": "gpt-realtime",
		"output_modalities": []string{"audio"}, "instructions": "", "tools": []any{}, "tool_choice": "auto",
		"max_output_tokens": "inf", "tracing": nil, "truncation": "auto", "prompt": nil, "expires_at": 1999999999,
		"include": nil,
		"audio": map[string]any{
			"input": map[string]any{"format": pcm(), "transcription": nil, "noise_reduction": nil,
				"turn_detection": map[string]any{"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300,
					"silence_duration_ms": 200, "idle_timeout_ms": nil, "create_response": true, "interrupt_response": true}},
			"output": map[string]any{"format": pcm(), "voice": "marin", "speed": 1.0},
		},
	}
	c.say(map[string]any{"type": "session.created", "session": c.session})
	return c
}

func eventID() string { return fmt.Sprintf("event_%012d", eventIDs.Add(1)) }

func (c *Conversation) say(event map[string]any) {
	event["event_id"] = eventID()
	b, err := json.Marshal(event)
	if err != nil {
		panic(err) // nothing that came as JSON cannot go as JSON
	}
	c.out.Text(b)
}

func (c *Conversation) refuse(code, message string, cause any) {
	c.say(map[string]any{"type": "error", "error": map[string]any{"type": "invalid_request_error", "code": code,
		"message": message, "param": nil, "event_id": cause}})
}

// Appended takes n bytes of caller audio at `now` (nanoseconds): the turn goes on with them.
func (c *Conversation) Appended(now int64, n int) {
	c.taken += int64(n)
	if !c.detects {
		return
	}
	at := c.Input.Millis(int(c.taken))
	if c.turnAt == 0 {
		c.turnAt = at + c.firstTurn(now)
	}
	if !c.speaking && at >= c.turnAt-500 {
		c.speaking = true
		c.item = fmt.Sprintf("item_u%06d_%d", c.ID, c.turns)
		c.say(map[string]any{"type": "input_audio_buffer.speech_started", "audio_start_ms": int(at), "item_id": c.item})
	}
	if at < c.turnAt {
		return
	}
	c.speaking = false
	c.turnAt += c.settings().Cycle * 1000
	c.say(map[string]any{"type": "input_audio_buffer.speech_stopped", "audio_end_ms": int(at), "item_id": c.item})
	c.commit(c.item)
	if c.creates && c.active == nil {
		c.respond(now, nil)
	}
}

// firstTurn is how many milliseconds of audio the first turn lasts. The turns of different sessions are spread
// over the cycle, whenever each began: their ends differ by multiples of the golden section.
func (c *Conversation) firstTurn(now int64) float64 {
	number := c.Sid
	if number < 0 {
		number = c.ID
	}
	cycle := c.settings().Cycle * 1000
	_, part := math.Modf(float64(number) * 0.6180339887498949)
	wait := math.Mod(part*cycle-math.Mod(float64(now)/1e6, cycle)+cycle, cycle)
	for wait < 600 {
		wait += cycle
	}
	return wait
}

func (c *Conversation) commit(item string) {
	c.turns++
	c.say(map[string]any{"type": "input_audio_buffer.committed", "previous_item_id": c.previous(), "item_id": item})
	c.add(map[string]any{"id": item, "object": "realtime.item", "type": "message", "status": "completed", "role": "user",
		"content": []any{map[string]any{"type": "input_audio", "transcript": nil}}})
}

// add puts an item behind the last.
func (c *Conversation) add(item map[string]any) {
	c.say(map[string]any{"type": "conversation.item.added", "previous_item_id": c.previous(), "item": item})
	c.say(map[string]any{"type": "conversation.item.done", "previous_item_id": c.previous(), "item": item})
	c.last, _ = item["id"].(string)
}

func (c *Conversation) previous() any {
	if c.last == "" {
		return nil
	}
	return c.last
}

// Event takes any other client event at `now`. An error names what is no such event.
func (c *Conversation) Event(now int64, message []byte) error {
	var event map[string]any
	if err := json.Unmarshal(message, &event); err != nil {
		c.refuse("invalid_json", "the event is no JSON object", nil)
		return fmt.Errorf("an event is no JSON object: %w", err)
	}
	part := func(key string) map[string]any { m, _ := event[key].(map[string]any); return m }
	switch kind := event["type"]; kind {
	case "session.update":
		c.update(part("session"))
	case "response.create":
		if c.active != nil {
			c.refuse("conversation_already_has_active_response", "active response", event["event_id"])
		} else {
			c.respond(now, part("response")["metadata"])
		}
	case "response.cancel":
		if c.active == nil {
			c.refuse("response_cancel_not_active", "no active response", event["event_id"])
		} else {
			c.finish("cancelled")
		}
	case "conversation.item.create":
		item := part("item")
		if item == nil {
			item = map[string]any{}
		}
		if id, _ := item["id"].(string); id == "" {
			item["id"] = fmt.Sprintf("item_c%012d", eventIDs.Add(1))
		}
		item["object"], item["status"] = "realtime.item", "completed"
		c.add(item)
	case "conversation.item.truncate":
		c.say(map[string]any{"type": "conversation.item.truncated", "item_id": event["item_id"], "content_index": 0,
			"audio_end_ms": event["audio_end_ms"]})
	case "conversation.item.delete":
		c.say(map[string]any{"type": "conversation.item.deleted", "item_id": event["item_id"]})
	case "input_audio_buffer.clear":
		c.say(map[string]any{"type": "input_audio_buffer.cleared"})
	case "input_audio_buffer.commit":
		c.commit(fmt.Sprintf("item_u%06d_%d", c.ID, c.turns))
	default:
		c.refuse("unknown_event", "the event's type is unknown", event["event_id"])
		return fmt.Errorf("an event has the unknown type %v", kind)
	}
	return nil
}

// update merges what session.update says and answers session.updated.
func (c *Conversation) update(session map[string]any) {
	for key, value := range session {
		if key != "audio" {
			if value != nil {
				c.session[key] = value
			}
			continue
		}
		sides, _ := value.(map[string]any)
		for _, side := range []string{"input", "output"} {
			given, _ := sides[side].(map[string]any)
			for k, v := range given {
				if v != nil || k == "turn_detection" {
					c.side(side)[k] = v
				}
			}
		}
	}
	c.Input, c.Output = c.format("input"), c.format("output")
	detection, detects := c.side("input")["turn_detection"].(map[string]any)
	create, told := detection["create_response"].(bool)
	c.detects, c.creates = detects, create || !told
	instructions, _ := c.session["instructions"].(string)
	if found := sidWord.FindStringSubmatch(instructions); found != nil {
		c.Sid, _ = strconv.ParseInt(found[1], 10, 64)
	}
	c.say(map[string]any{"type": "session.updated", "session": c.session})
}

// side is what the session says about "input" or "output".
func (c *Conversation) side(name string) map[string]any {
	return c.session["audio"].(map[string]any)[name].(map[string]any)
}

func (c *Conversation) format(side string) *audio.Format {
	format, _ := c.side(side)["format"].(map[string]any)
	if kind, _ := format["type"].(string); kind == "audio/pcmu" || kind == "audio/pcma" {
		return audio.Ulaw8
	}
	return audio.PCM24
}
