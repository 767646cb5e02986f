package provider

import (
	"bytes"
	"sync"

	"parley.dev/loadgen/internal/audio"
)

var (
	appendWord = []byte(`"input_audio_buffer.append"`)
	audioWord  = []byte(`"audio"`)
)

// cutAppend gives the base64 of an input_audio_buffer.append without parsing it; ok is false for other events.
func cutAppend(event []byte) (text []byte, ok bool) {
	if len(event) > 384 {
		if !bytes.Contains(event[:256], appendWord) && !bytes.Contains(event[len(event)-128:], appendWord) {
			return nil, false
		}
	} else if !bytes.Contains(event, appendWord) {
		return nil, false
	}
	for rest := event; ; {
		at := bytes.Index(rest, audioWord)
		if at < 0 {
			return nil, false
		}
		rest = bytes.TrimLeft(rest[at+len(audioWord):], " ")
		if len(rest) == 0 || rest[0] != ':' {
			continue // "audio" as a value
		}
		rest = bytes.TrimLeft(rest[1:], " ")
		if len(rest) == 0 || rest[0] != '"' {
			return nil, false
		}
		end := bytes.IndexByte(rest[1:], '"')
		if end < 0 {
			return nil, false
		}
		return rest[1 : end+1], true
	}
}

// decodedSize is how many bytes some base64 stands for, -1 where it is none.
func decodedSize(text []byte) int {
	n := len(text)
	if n%4 != 0 {
		return -1
	}
	size := n / 4 * 3
	for i := n - 1; i >= 0 && i >= n-2 && text[i] == '='; i-- {
		size--
	}
	return size
}

type answerKind struct {
	format        *audio.Format
	millis, piece int
}

var answers sync.Map // answerKind -> []audio.Piece

// answer gives an answer's sound, which is made once.
func answer(f *audio.Format, millis, piece int) []audio.Piece {
	kind := answerKind{f, millis, piece}
	if made, ok := answers.Load(kind); ok {
		return made.([]audio.Piece)
	}
	made, _ := answers.LoadOrStore(kind, audio.Answer(f, millis, piece))
	return made.([]audio.Piece)
}
