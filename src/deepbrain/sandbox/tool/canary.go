package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

const (
	spinners = 4
	// Whoever bounds memory by looking has looked meanwhile, however busy the machine is.
	hogHolds = 3 * time.Second
)

// canaryMain says what a process sees here: `canary`. The host compares it with itself.
// `canary hog BYTES` touches memory until it is stopped; one that survives says so.
// `canary spin MS` burns all processors that it gets; `canary fork N` makes as many processes as it may.
// `canary call IP:PORT` wants an answer by TCP and by UDP.
func canaryMain(args []string) int {
	if len(args) == 2 && args[0] == "call" {
		return call(args[1])
	}
	if len(args) == 2 {
		amount, err := strconv.Atoi(args[1])
		if err != nil {
			return exitUsage
		}
		switch args[0] {
		case "hog":
			return hog(amount)
		case "spin":
			return spin(time.Duration(amount) * time.Millisecond)
		case "fork":
			return forkMany(amount)
		}
		return exitUsage
	}
	version, _ := os.ReadFile("/proc/version") // a process tenant may have no /proc
	var names syscall.Utsname
	if err := syscall.Uname(&names); err != nil {
		return fail(1, "%v", err)
	}
	_, hostErr := os.ReadFile("/sys/kernel/security/lsm")
	fmt.Printf("kernel=%s\nversion=%s\nuid=%d\nhost_visible=%t\n", text(names.Release[:]),
		bytes.TrimSpace(version), os.Getuid(), hostErr == nil)
	return 0
}

func call(address string) int {
	const patience, tries = 2500 * time.Millisecond, 5
	stream, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return fail(1, "%v", err)
	}
	stream.Close()
	datagrams, err := net.Dial("udp", address)
	if err != nil {
		return fail(1, "%v", err)
	}
	defer datagrams.Close()
	answer := make([]byte, 16)
	for try := 0; try < tries; try++ {
		datagrams.SetDeadline(time.Now().Add(patience / tries))
		if _, err = datagrams.Write([]byte("?")); err != nil {
			continue
		}
		if _, err = datagrams.Read(answer); err == nil {
			fmt.Println("called=tcp,udp")
			return 0
		}
	}
	return fail(1, "%v", err)
}

func hog(wanted int) int {
	const step = 16 << 20
	var held [][]byte
	for taken := 0; taken < wanted; taken += step {
		block := bytes.Repeat([]byte{1}, step)
		held = append(held, block)
	}
	time.Sleep(hogHolds)
	fmt.Printf("survived=%d\n", len(held)*step)
	runtime.KeepAlive(held)
	return 0
}

func spin(long time.Duration) int {
	end := time.Now().Add(long)
	done := make(chan bool)
	for i := 0; i < spinners; i++ {
		go func() {
			for time.Now().Before(end) {
			}
			done <- true
		}()
	}
	for i := 0; i < spinners; i++ {
		<-done
	}
	return 0
}

// forkMany leaves its children to whoever ends the tenant: they hold their places while it counts.
func forkMany(wanted int) int {
	made := 0
	for ; made < wanted; made++ {
		child, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			break
		}
		if child == 0 {
			for { // nothing of Go's works in a forked thread: only wait
				syscall.RawSyscall6(syscall.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
			}
		}
	}
	fmt.Printf("forked=%d\n", made)
	return 0
}

func text(field []int8) string {
	var out []byte
	for _, character := range field {
		if character == 0 {
			break
		}
		out = append(out, byte(character))
	}
	return string(out)
}
