// Command parley-loadgen plays the callers and the provider around a worker, and measures it. See README.md.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"parley.dev/loadgen/internal/callers"
	"parley.dev/loadgen/internal/clock"
	"parley.dev/loadgen/internal/meter"
	"parley.dev/loadgen/internal/provider"
	"parley.dev/loadgen/internal/witness"
)

type options struct {
	provider         string
	certificate, key string
	settings         provider.Settings
	connectDelayMS   float64
	conns, subticks  int
	procs            int
	raw              bool
	profile          string
	witness          string
}

func parse(arguments []string) (*options, error) {
	o := new(options)
	f := flag.NewFlagSet("parley-loadgen", flag.ContinueOnError)
	f.StringVar(&o.provider, "provider", "127.0.0.1:9100", "`host:port` where the provider listens; port 0 for any free one")
	f.StringVar(&o.certificate, "provider-cert", "", "`file` of the provider's certificate; empty for plain TCP")
	f.StringVar(&o.key, "provider-key", "", "`file` of its key")
	f.Float64Var(&o.settings.Cycle, "cycle", 4, "`seconds` of caller audio from turn to turn")
	audioSeconds := f.Float64("audio-s", 3, "`seconds` of an answer")
	f.IntVar(&o.settings.ChunkMillis, "chunk-ms", 150, "`milliseconds` of a delta, a multiple of 20 or 10 of them at least")
	f.Float64Var(&o.settings.Speed, "speed", 2.5, "how many `times` faster than it sounds an answer is sent")
	f.BoolVar(&o.settings.Rates, "rates", false, "send rate_limits.updated with every answer")
	f.BoolVar(&o.settings.Burst, "burst", false, "send all deltas of an answer at once")
	f.Float64Var(&o.connectDelayMS, "connect-delay-ms", 0, "`milliseconds` before a provider's handshake is answered")
	f.IntVar(&o.conns, "conns", 1, "connections that calls with a stream of their own share, for each endpoint")
	f.IntVar(&o.subticks, "subticks", 4, "messages in which a shared stream sends its 20 ms")
	f.IntVar(&o.procs, "procs", 0, "CPUs to use; 0 for all that there are")
	f.BoolVar(&o.raw, "raw", false, "keep every time, for dump and provider_log")
	f.StringVar(&o.witness, "witness", "", "`CPUs` (0,1,...) on which a real-time thread tells whether they stand still")
	f.StringVar(&o.profile, "cpuprofile", "", "`file` for a CPU profile of this program")
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "usage: parley-loadgen [options]; commands as JSON lines on stdin, see README.md\n")
		f.PrintDefaults()
	}
	if err := f.Parse(pairOf(arguments)); err != nil {
		return nil, err
	}
	o.settings.AudioMillis = int(*audioSeconds * 1000)
	o.settings.ConnectDelay = int64(o.connectDelayMS * 1e6)
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("%q is no option: commands come on stdin", f.Arg(0))
	case (o.certificate == "") != (o.key == ""):
		return nil, errors.New("-provider-cert and -provider-key: give both or none")
	case o.conns < 1 || o.subticks < 1 || o.subticks > 20:
		return nil, errors.New("-conns: give at least 1; -subticks: give 1 to 20")
	}
	return o, checkSettings(o.settings)
}

// pairOf takes `-provider-tls CERT KEY` apart, which names both files at once.
func pairOf(arguments []string) (out []string) {
	for i := 0; i < len(arguments); i++ {
		if word := arguments[i]; (word == "-provider-tls" || word == "--provider-tls") && i+2 < len(arguments) {
			out = append(out, "-provider-cert", arguments[i+1], "-provider-key", arguments[i+2])
			i += 2
			continue
		}
		out = append(out, arguments[i])
	}
	return out
}

func checkSettings(s provider.Settings) error {
	switch {
	case s.Cycle < 1:
		return fmt.Errorf("cycle is %g s: give at least 1", s.Cycle)
	case s.AudioMillis < 20:
		return fmt.Errorf("the answer is %d ms long: give at least 20", s.AudioMillis)
	case s.ChunkMillis < 10 || s.ChunkMillis%10 != 0:
		return fmt.Errorf("a delta is %d ms long: give a multiple of 10", s.ChunkMillis)
	case s.Speed < 1:
		return fmt.Errorf("speed is %g: give at least 1, slower answers starve every player", s.Speed)
	case s.ConnectDelay < 0:
		return fmt.Errorf("the connect delay is below 0")
	}
	return nil
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err == nil {
		err = run(o, os.Stdin, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "parley-loadgen:", err)
		os.Exit(1)
	}
}

func run(o *options, in io.Reader, out io.Writer) error {
	debug.SetGCPercent(400)
	if o.procs > 0 {
		runtime.GOMAXPROCS(o.procs)
	}
	if o.profile != "" {
		file, err := os.Create(o.profile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	listener, err := provider.Listen(o.provider, o.certificate, o.key)
	if err != nil {
		return err
	}
	defer listener.Close()
	d := newDesk(o, out)
	if err := d.watch(o.witness); err != nil {
		return err
	}
	go d.wheel.Run()
	go d.sweep()
	go func() {
		if err := d.server.Serve(listener); !errors.Is(err, net.ErrClosed) {
			fmt.Fprintln(os.Stderr, "parley-loadgen:", err)
		}
	}()
	d.say(map[string]any{"event": "listening", "provider": listener.Addr().String()})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	commands := make(chan error, 1)
	go func() { commands <- d.read(in) }()
	select {
	case <-signals:
	case err = <-commands:
	}
	d.pool.StopAll()
	gone := make(chan struct{})
	go func() { d.pool.Wait(); close(gone) }()
	select {
	case <-gone:
	case <-time.After(8 * time.Second):
	}
	return err
}

// watch puts a witness on each CPU; without the right to real-time threads there is none.
func (d *desk) watch(cpus string) error {
	stalls := d.registry.Meter.Shard(0)
	for _, word := range strings.FieldsFunc(cpus, func(r rune) bool { return r == ',' }) {
		cpu, err := strconv.Atoi(word)
		if err != nil || cpu < 0 {
			return fmt.Errorf("-witness: %q is no CPU: give numbers, such as 0,1", word)
		}
		if err := witness.Watch(cpu, func(nanos int64) { stalls.Record(meter.Stall, nanos) }); err != nil {
			fmt.Fprintf(os.Stderr, "parley-loadgen: no witness on CPU %d: %v\n", cpu, err)
		}
	}
	return nil
}

func newDesk(o *options, out io.Writer) *desk {
	registry := new(meter.Registry)
	lag := registry.Meter.Shard(0)
	wheel := clock.NewWheel(clock.Now(), func(nanos int64) { lag.Record(meter.Lag, nanos) })
	d := &desk{out: out, registry: registry, wheel: wheel, server: &provider.Server{Registry: registry, Wheel: wheel}}
	d.server.Set(o.settings)
	d.server.Raw.Store(o.raw)
	d.pool = &callers.Pool{Registry: registry, Wheel: wheel, Say: d.say, Conns: o.conns, Subticks: o.subticks}
	d.pool.Raw.Store(o.raw)
	return d
}
