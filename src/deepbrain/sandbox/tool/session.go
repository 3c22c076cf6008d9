package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
	"unsafe"
)

const (
	statusFd     = 4
	tiocsctty    = 0x540e
	leashedGrace = 8 * time.Second
	pollErr      = 0x8
	pollHup      = 0x10
	pollNval     = 0x20
)

// sessionMain runs on the host, around the client of one exec session: `session [--tty] -- argv`. It
// gives the client a session (with the terminal on descriptor 0), passes the leash on, and writes the
// exit code to descriptor 4, so that whoever asked for the session need not be its parent. A client
// that outlives a cut leash is killed.
func sessionMain(args []string) int {
	tty := len(args) > 0 && args[0] == "--tty"
	if tty {
		args = args[1:]
	}
	if len(args) < 2 || args[0] != "--" {
		return exitUsage
	}
	argv := args[1:]
	syscall.CloseOnExec(statusFd)
	signals := make(chan os.Signal, 16) // the terminal's signals are for the client
	signal.Notify(signals, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGHUP)
	syscall.Setsid()
	if tty {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, 0, tiocsctty, 0); errno != 0 {
			return report(fail(exitUsage, "no terminal: %v", errno))
		}
	}
	child, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2, leashFd},
	})
	if err != nil {
		return report(fail(exitNotRunable, "%s: %v", argv[0], err))
	}
	for fd := range 3 { // the ends of the streams are the client's alone
		syscall.Close(fd)
	}
	go func() {
		awaitCut()
		time.Sleep(leashedGrace)
		syscall.Kill(child, syscall.SIGKILL)
	}()
	return report(waitFor(child))
}

// awaitCut waits until the leash is cut, and reads nothing: what is in it is for the client's other end.
func awaitCut() {
	leash := []pollFd{{fd: leashFd}}
	for leash[0].revents&(pollHup|pollErr) == 0 {
		if leash[0].revents&pollNval != 0 {
			select {} // started by hand, without a leash
		}
		syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&leash[0])), 1, 0, 0, 0, 0)
	}
}

type pollFd struct {
	fd      int32
	events  int16
	revents int16
}

func waitFor(child int) int {
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(child, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 255
		case status.Signaled():
			return 128 + int(status.Signal())
		case status.Exited():
			return status.ExitStatus()
		}
	}
}

func report(code int) int {
	fmt.Fprintf(os.NewFile(statusFd, "status"), "%d\n", code)
	return code
}
