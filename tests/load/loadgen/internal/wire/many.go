package wire

// ConverseMany: entries of many sessions, each under its handle.

// AppendManyAudio writes one CallerEntry of audio; sequence counts from 1.
func AppendManyAudio(b []byte, handle, sequence uint64, payload []byte) []byte {
	at := (sequence - 1) * 20
	size := SizeVarint(1, handle) + SizeBytes(2, len(payload)) + SizeVarint(6, sequence) + SizeVarint(7, at)
	b = AppendVarint(AppendLength(b, 1, size), 1, handle)
	b = append(AppendLength(b, 2, len(payload)), payload...)
	return AppendVarint(AppendVarint(b, 6, sequence), 7, at)
}

// ManyMessage is one CallerEntry with a ConverseRequest.
func ManyMessage(handle uint64, request []byte) []byte {
	return AppendMessage(nil, 1, AppendMessage(AppendVarint(nil, 1, handle), 3, request))
}

// AgentEntry is one entry of a ConverseManyResponse. Slices point into the message.
type AgentEntry struct {
	Handle  uint64
	Audio   []byte // a frame
	Message []byte // or a ConverseResponse
	Failed  []byte // or a LegFailed
	Epoch   uint64 // of Audio
	HasItem bool   // of Audio: Item is another than that of the handle's last frame
	Item    []byte
}

// ManyEntries calls `each` for every entry of a ConverseManyResponse.
func ManyEntries(b []byte, each func(*AgentEntry) error) error {
	for len(b) > 0 {
		entry, rest, err := Next(b)
		if err != nil {
			return err
		}
		b = rest
		var e AgentEntry
		for in := entry.B; len(in) > 0; {
			var f Field
			if f, in, err = Next(in); err != nil {
				return err
			}
			switch f.Number {
			case 1:
				e.Handle = f.V
			case 2:
				e.Audio = f.B
			case 3:
				e.Message = f.B
			case 4:
				e.Failed = f.B
			case 6:
				e.Epoch = f.V
			case 9:
				e.HasItem, e.Item = true, f.B
			}
		}
		if err := each(&e); err != nil {
			return err
		}
	}
	return nil
}

// LegFailed reads gRPC's status code, the word for machines and the text for people.
func LegFailed(b []byte) (code uint64, reason, message string, err error) {
	for len(b) > 0 {
		var f Field
		if f, b, err = Next(b); err != nil {
			return 0, "", "", err
		}
		switch f.Number {
		case 1:
			code = f.V
		case 2:
			reason = string(f.B)
		case 4:
			message = string(f.B)
		}
	}
	return code, reason, message, nil
}
