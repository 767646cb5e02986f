// Package wire codes by hand the few messages that every frame needs: protobuf and WebSocket.
package wire

import (
	"encoding/binary"
	"errors"
)

// ErrShort says that a message ends too early or is none.
var ErrShort = errors.New("the message is cut short or malformed")

// Wire types of protobuf.
const (
	varintType = 0
	fixed64    = 1
	lengthType = 2
	fixed32    = 5
)

// AppendVarint writes a field of an integer. Zero is left out, as protobuf does.
func AppendVarint(b []byte, field int, v uint64) []byte {
	if v == 0 {
		return b
	}
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(field)<<3|varintType), v)
}

// AppendLength writes the head of a field of `n` bytes, which follow.
func AppendLength(b []byte, field, n int) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(field)<<3|lengthType), uint64(n))
}

// AppendBytes writes a field of bytes. Empty is left out.
func AppendBytes(b []byte, field int, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return append(AppendLength(b, field, len(v)), v...)
}

// AppendString writes a field of text. Empty is left out.
func AppendString(b []byte, field int, v string) []byte {
	if v == "" {
		return b
	}
	return append(AppendLength(b, field, len(v)), v...)
}

// AppendMessage writes a field of a message, an empty one too.
func AppendMessage(b []byte, field int, v []byte) []byte {
	return append(AppendLength(b, field, len(v)), v...)
}

// Field is one field of a message: V of an integer, B of bytes, text or a message.
type Field struct {
	Number int
	V      uint64
	B      []byte
}

// Next takes the first field off a message; B points into it.
func Next(b []byte) (f Field, rest []byte, err error) {
	tag, n := binary.Uvarint(b)
	if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29 {
		return f, nil, ErrShort
	}
	b, f.Number = b[n:], int(tag>>3)
	switch tag & 7 {
	case varintType:
		if f.V, n = binary.Uvarint(b); n <= 0 {
			return f, nil, ErrShort
		}
		return f, b[n:], nil
	case lengthType:
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return f, nil, ErrShort
		}
		f.B = b[n : n+int(size)]
		return f, b[n+int(size):], nil
	case fixed64, fixed32:
		size := 8
		if tag&7 == fixed32 {
			size = 4
		}
		if len(b) < size {
			return f, nil, ErrShort
		}
		return f, b[size:], nil
	}
	return f, nil, ErrShort
}

// SizeVarint is how many bytes AppendVarint writes.
func SizeVarint(field int, v uint64) int {
	if v == 0 {
		return 0
	}
	return sizeUvarint(uint64(field)<<3) + sizeUvarint(v)
}

// SizeBytes is how many bytes a field of n bytes takes.
func SizeBytes(field, n int) int {
	return sizeUvarint(uint64(field)<<3) + sizeUvarint(uint64(n)) + n
}

func sizeUvarint(v uint64) int {
	n := 1
	for ; v > 127; v >>= 7 {
		n++
	}
	return n
}
