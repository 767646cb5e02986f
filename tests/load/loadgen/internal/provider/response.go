package provider

import (
	"fmt"
	"strings"

	"parley.dev/loadgen/internal/audio"
)

// A response is the answer that is being sent.
type response struct {
	id, item string
	key      int64
	pieces   []audio.Piece
	sent     int   // pieces
	began    int64 // nanoseconds
	said     int   // words
	head     []byte
	metadata any
	settings *Settings
}

// Key gives the number under which an answer is metered: of its connection, and of the answer within it.
func Key(connection, answer int64) int64 { return connection<<24 | answer }

// KeyOf reads the number out of the id of the answer's item; ok is false where it is no answer's item.
func KeyOf(item []byte) (key int64, ok bool) {
	rest, ok := strings.CutPrefix(string(item), "item_a")
	if !ok {
		return 0, false
	}
	var connection, answer int64
	if n, err := fmt.Sscanf(rest, "%d_%d", &connection, &answer); err != nil || n != 2 {
		return 0, false
	}
	return Key(connection, answer), true
}

var usage = map[string]any{"total_tokens": 253, "input_tokens": 132, "output_tokens": 121,
	"input_token_details": map[string]any{"text_tokens": 119, "audio_tokens": 13, "image_tokens": 0, "cached_tokens": 64,
		"cached_tokens_details": map[string]any{"text_tokens": 64, "audio_tokens": 0, "image_tokens": 0}},
	"output_token_details": map[string]any{"text_tokens": 30, "audio_tokens": 91}}

// respond begins an answer and sends its first piece.
func (c *Conversation) respond(now int64, metadata any) {
	s := c.settings()
	r := &response{id: fmt.Sprintf("resp_%06d_%d", c.ID, c.answers), item: fmt.Sprintf("item_a%06d_%d", c.ID, c.answers),
		key: Key(c.ID, c.answers), pieces: answer(c.Output, s.AudioMillis, s.ChunkMillis), began: now, metadata: metadata, settings: s}
	c.answers++
	c.active = r
	r.head = fmt.Appendf(nil, `{"type":"response.output_audio.delta","response_id":"%s","item_id":"%s","output_index":0,`+
		`"content_index":0,"event_id":"event_`, r.id, r.item)
	c.say(map[string]any{"type": "response.created", "response": c.describe(r, "in_progress", []any{}, nil)})
	if s.Rates {
		c.say(map[string]any{"type": "rate_limits.updated", "rate_limits": []any{
			map[string]any{"name": "requests", "limit": 1000, "remaining": 999, "reset_seconds": 60},
			map[string]any{"name": "tokens", "limit": 50000, "remaining": 49950, "reset_seconds": 60}}})
	}
	item := map[string]any{"id": r.item, "object": "realtime.item", "type": "message", "status": "in_progress",
		"role": "assistant", "content": []any{}}
	c.say(map[string]any{"type": "response.output_item.added", "response_id": r.id, "output_index": 0, "item": item})
	c.say(map[string]any{"type": "conversation.item.added", "previous_item_id": c.previous(), "item": item})
	c.say(c.about(r, "response.content_part.added", "part", map[string]any{"type": "audio", "transcript": ""}))
	c.Step(now)
}

func (c *Conversation) describe(r *response, status string, output []any, used any) map[string]any {
	format := map[string]any{"type": "audio/pcm", "rate": 24000}
	if c.Output == audio.Ulaw8 {
		format = map[string]any{"type": "audio/pcmu"}
	}
	return map[string]any{"object": "realtime.response", "id": r.id, "status": status, "status_details": nil,
		"output": output, "conversation_id": fmt.Sprintf("conv_%06d", c.ID), "output_modalities": []string{"audio"},
		"max_output_tokens": "inf", "audio": map[string]any{"output": map[string]any{"format": format, "voice": "marin"}},
		"usage": used, "metadata": r.metadata}
}

// about is an event of the answer's content part.
func (c *Conversation) about(r *response, kind, key string, value any) map[string]any {
	event := map[string]any{"type": kind, "response_id": r.id, "item_id": r.item, "output_index": 0, "content_index": 0}
	if key != "" {
		event[key] = value
	}
	return event
}

// Due is when Step wants to be called next; 0 while no answer is being sent.
func (c *Conversation) Due() int64 {
	r := c.active
	if r == nil {
		return 0
	}
	return r.began + int64(float64(r.sent*r.settings.ChunkMillis)*1e6/r.settings.Speed)
}

// Step sends what of the answer is due at `now`.
func (c *Conversation) Step(now int64) {
	for c.active != nil && (c.Due() <= now || c.active.settings.Burst) {
		r := c.active
		if r.sent == len(r.pieces) {
			c.finish("completed")
			return
		}
		c.piece(r)
	}
}

func (c *Conversation) piece(r *response) {
	p := r.pieces[r.sent]
	c.out.Delta(fmt.Appendf(r.head, `%012d","delta":"`, eventIDs.Add(1)), p.Text, r.key, p.Millis)
	if r.sent%2 == 0 && r.said < len(words) {
		upto := min(r.said+(len(words)*2+len(r.pieces)-1)/len(r.pieces), len(words))
		c.say(c.about(r, "response.output_audio_transcript.delta", "delta", strings.Join(words[r.said:upto], " ")+" "))
		r.said = upto
	}
	r.sent++
}

// finish ends the answer: completed, or cancelled.
func (c *Conversation) finish(status string) {
	r := c.active
	c.active = nil
	c.out.Finished(r.key, status != "completed")
	text := strings.Join(words, " ")
	c.say(c.about(r, "response.output_audio.done", "", nil))
	c.say(c.about(r, "response.output_audio_transcript.done", "transcript", text))
	c.say(c.about(r, "response.content_part.done", "part", map[string]any{"type": "audio", "transcript": text}))
	item := map[string]any{"id": r.item, "object": "realtime.item", "type": "message", "status": "completed",
		"role": "assistant", "content": []any{map[string]any{"type": "output_audio", "transcript": text}}}
	if status != "completed" {
		item["status"] = "incomplete"
	}
	c.say(map[string]any{"type": "conversation.item.done", "previous_item_id": c.previous(), "item": item})
	c.say(map[string]any{"type": "response.output_item.done", "response_id": r.id, "output_index": 0, "item": item})
	c.last = r.item
	c.say(map[string]any{"type": "response.done", "response": c.describe(r, status, []any{item}, usage)})
}
