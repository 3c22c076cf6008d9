package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// canaryMain says what a process sees here: `canary [hog BYTES]`. The host compares it with itself. A
// hog touches memory until it is stopped; one that survives says so.
func canaryMain(args []string) int {
	if len(args) == 2 && args[0] == "hog" {
		return hog(args[1])
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

func hog(size string) int {
	wanted, err := strconv.Atoi(size)
	if err != nil {
		return exitUsage
	}
	const step = 16 << 20
	var held [][]byte
	for taken := 0; taken < wanted; taken += step {
		block := bytes.Repeat([]byte{1}, step)
		held = append(held, block)
	}
	fmt.Printf("survived=%d\n", len(held)*step)
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
