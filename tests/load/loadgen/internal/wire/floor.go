package wire

// FloorUp is the head of floor.Media's Up (seq 1, audio 2); the payload follows.
func FloorUp(seq uint64, payload int) []byte {
	b := make([]byte, 0, 24)
	return AppendLength(AppendVarint(b, 1, seq), 2, payload)
}

// FloorDown gives the audio of floor.Media's Down (seq 1, audio 2, event 3).
func FloorDown(b []byte) (audio []byte, err error) {
	for len(b) > 0 {
		var f Field
		if f, b, err = Next(b); err != nil {
			return nil, err
		}
		if f.Number == 2 {
			audio = f.B
		}
	}
	return audio, nil
}

// AppendFloorFrame writes one Frame (sid 1, seq 2, audio 3) of a Tick.
func AppendFloorFrame(b []byte, sid, seq uint64, payload []byte) []byte {
	size := SizeVarint(1, sid) + SizeVarint(2, seq)
	if len(payload) > 0 {
		size += SizeBytes(3, len(payload))
	}
	b = AppendLength(b, 1, size)
	return AppendBytes(AppendVarint(AppendVarint(b, 1, sid), 2, seq), 3, payload)
}

// FloorTick calls `each` for every Frame of a Tick.
func FloorTick(b []byte, each func(sid uint64, audio []byte)) error {
	for len(b) > 0 {
		frame, rest, err := Next(b)
		if err != nil {
			return err
		}
		b = rest
		var sid uint64
		var audio []byte
		for in := frame.B; len(in) > 0; {
			var f Field
			if f, in, err = Next(in); err != nil {
				return err
			}
			switch f.Number {
			case 1:
				sid = f.V
			case 3:
				audio = f.B
			}
		}
		each(sid, audio)
	}
	return nil
}
