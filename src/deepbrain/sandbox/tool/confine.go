package main

import (
	"flag"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

const (
	prSetNoNewPrivs = 38
	rlimitNproc     = 6
)

// confineMain gives up rights for good, then becomes argv:
// `confine [--uid N] [--root DIR] [--cwd DIR] [--make-cwd] [--memory N] [--file N] [--pids N] -- argv`.
func confineMain(args []string) int {
	flags := flag.NewFlagSet("confine", flag.ContinueOnError)
	uid := flags.Int("uid", 0, "become this user and group; 0 stays")
	root := flags.String("root", "", "chroot")
	cwd := flags.String("cwd", "", "working directory, inside the root")
	makeCwd := flags.Bool("make-cwd", false, "make it where it is missing")
	memory := flags.Uint64("memory", 0, "address space of each process")
	file := flags.Uint64("file", 0, "largest file")
	pids := flags.Uint64("pids", 0, "processes of the user")
	if flags.Parse(args) != nil || flags.NArg() == 0 {
		return exitUsage
	}
	runtime.LockOSThread() // no_new_privs belongs to the thread that will exec
	user := &syscall.Credential{Uid: uint32(*uid), Gid: uint32(*uid)}
	if !*makeCwd || *uid == 0 {
		user = nil
	}
	enterCwd := func() error {
		if *makeCwd {
			return enter(*cwd, user)
		}
		return syscall.Chdir(*cwd)
	}
	if *cwd == "" {
		enterCwd = func() error { return nil }
	}
	if err := confine(*uid, *root, enterCwd, *memory, *file, *pids); err != nil {
		return fail(exitUsage, "cannot confine: %v", err)
	}
	path, err := exec.LookPath(flags.Arg(0))
	if err != nil {
		return fail(exitNotFound, "%s: command not found", flags.Arg(0))
	}
	return fail(exitNotRunable, "%s: %v", path, syscall.Exec(path, flags.Args(), os.Environ()))
}

func confine(uid int, root string, enterCwd func() error, memory, file, pids uint64) error {
	if root != "" {
		// To find what must be killed; the job itself never gets this descriptor.
		if proc, err := syscall.Open("/proc", syscall.O_RDONLY|syscall.O_DIRECTORY, 0); err == nil {
			syscall.Dup3(proc, procFd, 0)
			syscall.Close(proc)
		}
		if err := syscall.Chroot(root); err != nil {
			return err
		}
		if err := syscall.Chdir("/"); err != nil {
			return err
		}
	}
	if err := enterCwd(); err != nil {
		return err
	}
	limits := map[int]uint64{
		syscall.RLIMIT_AS: memory, syscall.RLIMIT_FSIZE: file, rlimitNproc: pids,
	}
	for which, value := range limits {
		if value == 0 {
			continue
		}
		if err := syscall.Setrlimit(which, &syscall.Rlimit{Cur: value, Max: value}); err != nil {
			return err
		}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return err
	}
	if uid != 0 {
		if err := syscall.Setgroups(nil); err != nil {
			return err
		}
		if err := syscall.Setresgid(uid, uid, uid); err != nil {
			return err
		}
		if err := syscall.Setresuid(uid, uid, uid); err != nil {
			return err
		}
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0); errno != 0 {
		return errno
	}
	return nil
}
