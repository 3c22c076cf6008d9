package main

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Descriptors given by the host. The leash is a pipe whose other end the host holds: when that closes,
// by intent or because the host's process died, everything that was started here is killed. A byte in it is
// the number of a signal for the job.
const (
	leashFd = 3
	readyFd = 4
	procFd  = 5 // the host's /proc, for a tenant whose root has none; never passed on to the job
)

const prSetChildSubreaper = 36

// initMain runs argv as the tenant's job: `init [--user UID:GID[:GROUP...]] [--cwd DIR] [--own] -- argv`.
// It reports on readyFd once the job runs, reaps orphans (zombies count against the limit of processes),
// forwards signals, and ends with the job's code; the container ends with it.
func initMain(args []string) int {
	flags := flag.NewFlagSet("init", flag.ContinueOnError)
	numbers := flags.String("user", "", "whom the job runs as")
	cwd := flags.String("cwd", "", "where it runs; made where it is missing")
	own := flags.Bool("own", false, "give the image's files back to their owners")
	if flags.Parse(args) != nil {
		return exitUsage
	}
	user, err := parseUser(*numbers)
	if err != nil {
		return fail(exitUsage, "%v", err)
	}
	if *own {
		restoreOwners(ownersFile)
		giveWorkspace(user)
	}
	if *cwd != "" {
		if err := enter(*cwd, user); err != nil {
			return fail(exitNotRunable, "the working directory cannot be entered: %v", err)
		}
	}
	return supervise(append([]string{"--"}, flags.Args()...), user, false, true)
}

// runMain is one exec session: `run [--tty] -- argv`. Its end kills everything it started.
func runMain(args []string) int {
	tty := len(args) > 0 && args[0] == "--tty"
	if tty {
		args = args[1:]
	}
	return supervise(args, nil, tty, false)
}

func supervise(args []string, user *syscall.Credential, tty, tellReady bool) int {
	if len(args) < 2 || args[0] != "--" {
		return fail(exitUsage, "no command")
	}
	argv := args[1:]
	syscall.CloseOnExec(leashFd)
	syscall.CloseOnExec(readyFd)
	syscall.CloseOnExec(procFd)
	syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0)
	// Notified, not ignored: an ignored signal would stay ignored in the job.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU,
		syscall.SIGCONT, syscall.SIGPIPE)

	child, code := spawn(argv, user, tty)
	if tellReady {
		ready := os.NewFile(readyFd, "ready")
		ready.Write([]byte(map[bool]string{true: "R", false: "E"}[code == 0]))
		ready.Close()
	}
	if code != 0 {
		return code
	}
	leash := make(chan syscall.Signal)
	go watchLeash(leash)
	ended := make(chan int, 1)
	go reapUntil(child, ended)
	for {
		select {
		case code := <-ended:
			killAll()
			return code
		case asked, holds := <-leash:
			if !holds {
				killAll()
				return exitKilled
			}
			syscall.Kill(-child, asked)
		case received := <-signals:
			forward(received.(syscall.Signal), child, tty)
		}
	}
}

func spawn(argv []string, user *syscall.Credential, tty bool) (int, int) {
	path, err := exec.LookPath(argv[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		if errors.Is(err, os.ErrPermission) {
			return 0, fail(exitNotRunable, "%s: permission denied", argv[0])
		}
		return 0, fail(exitNotFound, "%s: command not found", argv[0])
	}
	// On a terminal the job stays in the session that owns it, and leads its own foreground group.
	attributes := &syscall.SysProcAttr{
		Credential: user, Setsid: !tty, Setpgid: tty, Foreground: tty, Ctty: 0,
	}
	child, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: attributes,
	})
	if err != nil {
		return 0, fail(exitNotRunable, "%s: %v", argv[0], err)
	}
	return child, 0
}

// watchLeash passes the signals that are asked for on, and closes the channel when the leash is cut.
func watchLeash(asked chan<- syscall.Signal) {
	buffer := make([]byte, 1)
	for {
		count, err := syscall.Read(leashFd, buffer)
		if err == syscall.EINTR || err == syscall.EAGAIN {
			continue
		}
		if err == syscall.EBADF {
			return // started by hand, without a leash
		}
		if count <= 0 || err != nil {
			close(asked)
			return
		}
		asked <- syscall.Signal(buffer[0])
	}
}

func reapUntil(child int, ended chan<- int) {
	var status syscall.WaitStatus
	for {
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			ended <- exitKilled // no children left, so ours is gone too
			return
		case pid == child && status.Signaled():
			ended <- 128 + int(status.Signal())
			return
		case pid == child && status.Exited():
			ended <- status.ExitStatus()
			return
		}
	}
}

// forward hands a signal on to the job's process group. On a terminal the kernel delivers the
// terminal's own signals to the foreground group already.
func forward(number syscall.Signal, child int, tty bool) {
	if number == syscall.SIGPIPE || number == syscall.SIGTTOU || number == syscall.SIGTTIN {
		return
	}
	if tty && number != syscall.SIGTERM && number != syscall.SIGHUP {
		return
	}
	syscall.Kill(-child, number)
}

// killAll kills every descendant. Orphans come to us (subreaper), so nothing escapes by forking twice;
// the loop is for what forks while it is being killed.
func killAll() {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		for {
			var status syscall.WaitStatus
			if pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil); err != nil || pid <= 0 {
				break
			}
		}
		family := descendants()
		if len(family) == 0 {
			return
		}
		for _, pid := range family {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func descendants() []int {
	children := map[int][]int{}
	for _, pid := range processes() {
		if parent, live := parentOf(pid); live {
			children[parent] = append(children[parent], pid)
		}
	}
	var found []int
	for queue := children[os.Getpid()]; len(queue) > 0; queue = queue[1:] {
		found = append(found, queue[0])
		queue = append(queue, children[queue[0]]...)
	}
	return found
}

// openProc opens a file of /proc, here or, where the tenant's is empty, through what confine left.
func openProc(name string) (*os.File, error) {
	if _, err := os.Stat("/proc/self/stat"); err == nil {
		return os.Open("/proc/" + name)
	}
	fd, err := syscall.Openat(procFd, name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func processes() []int {
	directory, err := openProc(".")
	if err != nil {
		return nil
	}
	defer directory.Close()
	names, _ := directory.Readdirnames(-1)
	var found []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			found = append(found, pid)
		}
	}
	return found
}

// parentOf reads /proc/<pid>/stat: `pid (name) state ppid ...`; the name may hold anything.
func parentOf(pid int) (int, bool) {
	file, err := openProc(strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	defer file.Close()
	data := make([]byte, 1024)
	count, err := file.Read(data)
	if err != nil {
		return 0, false
	}
	text := string(data[:count])
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 2 || fields[0] == "Z" || fields[0] == "X" {
		return 0, false
	}
	parent, err := strconv.Atoi(fields[1])
	return parent, err == nil
}
