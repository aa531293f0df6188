// The Go runtime's own callbacks, called by the same loops in C: a program for Windows.
//
// Arguments: the DLL made of callers.c, and the number of rounds. Prints what the Rust program prints.
package main

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"sort"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

const (
	sample = 2 * time.Millisecond // Wine's clock has a coarse grain
	result = 1 + 2 + 3 + 4        // of each call
)

type Case struct {
	name    string
	loop    *syscall.Proc
	depth   int
	codes   []uintptr
	passes  int
	samples []float64
}

func (c *Case) run(passes int) time.Duration {
	start := time.Now()
	_, sum, _ := c.loop.Call(uintptr(unsafe.Pointer(&c.codes[0])), uintptr(len(c.codes)), uintptr(passes))
	elapsed := time.Since(start)
	if math.Float64frombits(uint64(sum)) != float64(result*passes*len(c.codes)) {
		panic("the sum of what the handlers returned")
	}
	return elapsed
}

func main() {
	rounds, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	runtime.LockOSThread()
	syscall.MustLoadDLL("kernel32.dll").MustFindProc("SetThreadAffinityMask").Call(^uintptr(1), 1)
	dll := syscall.MustLoadDLL(os.Args[1])
	shallow, deep := dll.MustFindProc("loop_int4"), dll.MustFindProc("loop_int4_depth3")

	counts := make([]uintptr, 64)
	callbacks := make([]uintptr, len(counts))
	for i := range callbacks {
		count := &counts[i]
		callbacks[i] = syscall.NewCallback(func(a, b, c, d uintptr) uintptr {
			*count++
			return a + b + c + d
		})
	}
	cases := []*Case{
		{name: "direct_from_go", loop: shallow, depth: 1, codes: []uintptr{dll.MustFindProc("direct_int4").Addr()}},
		{name: "go", loop: shallow, depth: 1, codes: callbacks[:1]},
		{name: "go", loop: shallow, depth: 1, codes: callbacks[:8]},
		{name: "go", loop: shallow, depth: 1, codes: callbacks},
		{name: "go", loop: deep, depth: 3, codes: callbacks[:1]},
	}
	for _, c := range cases {
		for c.passes = 1; c.run(c.passes) < sample; c.passes *= 2 {
		}
	}
	for round := 0; round < rounds; round++ {
		for _, c := range cases {
			ns := float64(c.run(c.passes).Nanoseconds())
			c.samples = append(c.samples, ns/float64(c.passes*len(c.codes)))
		}
	}
	for _, c := range cases {
		sort.Float64s(c.samples)
		at := func(part int) float64 { return c.samples[(len(c.samples)-1)*part/4] }
		fmt.Printf(`{"group":"calls","contender":"%s","work":"int4","slots":%d,"depth":%d,`, c.name, len(c.codes), c.depth)
		fmt.Printf(`"handlers":1,"shuffled":false,"median":%.4f,"q1":%.4f,"q3":%.4f,"samples":%d}`+"\n", at(2), at(1), at(3), len(c.samples))
	}
}
