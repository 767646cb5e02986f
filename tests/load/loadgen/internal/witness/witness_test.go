package witness

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAWitnessWakesOnItsCPUAndSaysHowLate(t *testing.T) {
	seen := make(chan int64, 1000)
	err := Watch(0, func(nanos int64) {
		select {
		case seen <- nanos:
		default:
		}
	})
	if errors.Is(err, unix.EPERM) {
		t.Skip("no right to real-time threads")
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		select {
		case nanos := <-seen:
			if nanos < 0 {
				t.Fatalf("woke %d ns before its time", -nanos)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("it does not wake")
		}
	}
}

func TestACPUThatIsNotThereHasNoWitness(t *testing.T) {
	if err := Watch(1000, func(int64) {}); err == nil {
		t.Fatal("a witness on CPU 1000")
	}
}
