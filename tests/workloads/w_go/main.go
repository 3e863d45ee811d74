// Workload in Go with an oracle: a method on a pointer, a function and a closure's body; about 50, 35 and 15 %.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"syscall"
	"unsafe"
)

const (
	clockProcessCPU = 2
	clockThreadCPU  = 3
)

func clockNS(clock uintptr) uint64 {
	var ts syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&ts)), 0)
	return uint64(ts.Sec)*1e9 + uint64(ts.Nsec)
}

type engine struct{ factor uint64 }

//go:noinline
func (e *engine) turn(seed, iterations uint64) uint64 {
	for i := uint64(0); i < iterations; i++ {
		seed = (seed ^ i) * e.factor
	}
	return seed
}

//go:noinline
func spin(seed, iterations uint64) uint64 {
	for i := uint64(0); i < iterations; i++ {
		seed = seed*6364136223846793005 + (i ^ seed>>7)
	}
	return seed
}

//go:noinline
func mix(seed, iterations uint64) uint64 {
	for i := uint64(0); i < iterations; i++ {
		seed ^= seed<<9 ^ seed>>3 ^ i
	}
	return seed
}

func random(state *uint64) uint64 {
	*state ^= *state << 13
	*state ^= *state >> 7
	*state ^= *state << 17
	return *state
}

func main() {
	// One thread does the work, so that its clock is the work's; no collector beside it.
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	var limit uint64
	if len(os.Args) == 3 && os.Args[1] == "--cpu-seconds" {
		seconds, err := strconv.ParseFloat(os.Args[2], 64)
		if err != nil {
			os.Exit(2)
		}
		limit = uint64(seconds * 1e9)
	}
	var stop int32
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		atomic.StoreInt32(&stop, 1)
	}()

	e := &engine{factor: 0x100000001b3}
	state, sink := uint64(0x9e3779b97f4a7c15), uint64(0)
	var cpu [3]uint64
	fmt.Println("started")
	for atomic.LoadInt32(&stop) == 0 {
		pick := random(&state) % 100
		iterations := 50000 + random(&state)%1500000
		seed := random(&state)
		before := clockNS(clockThreadCPU)
		switch {
		case pick < 50:
			sink += e.turn(seed, iterations)
			cpu[0] += clockNS(clockThreadCPU) - before
		case pick < 85:
			sink += spin(seed, iterations)
			cpu[1] += clockNS(clockThreadCPU) - before
		default:
			sink += mix(seed, iterations)
			cpu[2] += clockNS(clockThreadCPU) - before
		}
		if limit != 0 && clockNS(clockProcessCPU) >= limit {
			break
		}
	}
	fmt.Printf("{\"functions\":{\"main.(*engine).turn\":%d,\"main.spin\":%d,\"main.mix\":%d},\"sink\":%d,\"process_cpu_ns\":%d}\n",
		cpu[0], cpu[1], cpu[2], sink&1, clockNS(clockProcessCPU))
}
