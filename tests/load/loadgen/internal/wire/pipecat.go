package wire

// Pipecat's frames.proto: Frame{audio 2: AudioRawFrame{audio 3, sample_rate 4, num_channels 5}}.

// PipecatTail ends a frame: 24 kHz, one channel.
var PipecatTail = AppendVarint(AppendVarint(nil, 4, 24000), 5, 1)

// PipecatHead begins a frame of so many bytes, which PipecatTail follows.
func PipecatHead(payload int) []byte {
	return AppendLength(AppendLength(nil, 2, SizeBytes(3, payload)+len(PipecatTail)), 3, payload)
}

// PipecatAudio gives a frame's samples; ok is false for frames of another kind.
func PipecatAudio(b []byte) (sound []byte, ok bool) {
	frame, _, err := Next(b)
	if err != nil || frame.Number != 2 {
		return nil, false
	}
	for in := frame.B; len(in) > 0; {
		var f Field
		if f, in, err = Next(in); err != nil {
			return nil, false
		}
		if f.Number == 3 {
			sound = f.B
		}
	}
	return sound, len(sound) > 0
}
