package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const maxPasswd = 1 << 20

// packages that hold what tools on the other side start here by name, as Debian and most others call them.
var packages = map[string]string{
	"rsync": "rsync", "scp": "openssh-client", "git-upload-pack": "git", "git-receive-pack": "git",
}

// loginMain is what a login server would start: `login [COMMAND...]`, the user's shell, or COMMAND in it.
// A long command comes in several words, which are put together as they are.
func loginMain(args []string) int {
	command := strings.Join(args, "")
	if word, _, _ := strings.Cut(strings.TrimSpace(command), " "); packages[word] != "" {
		if _, err := exec.LookPath(word); err != nil {
			return fail(exitNotFound, "this image has no %s; install its package %s, or copy with sftp, scp or `dbc cp`, which need nothing of the image", word, packages[word])
		}
	}
	user := userOf(os.Getuid())
	shell := findShell(user.shell)
	if shell == "" {
		return fail(exitNotFound, "this image has no shell; start a program of it with `dbc exec ORDER PROGRAM`")
	}
	for name, value := range map[string]string{
		"HOME": user.home, "USER": user.name, "LOGNAME": user.name, "SHELL": shell,
	} {
		if os.Getenv(name) == "" || name == "SHELL" {
			os.Setenv(name, value)
		}
	}
	os.Chdir(os.Getenv("HOME")) // where it cannot, the working directory stays as it is
	argv := []string{"-" + filepath.Base(shell)}
	if command != "" {
		argv = []string{filepath.Base(shell), "-c", command}
	}
	return fail(exitNotRunable, "%s: %v", shell, syscall.Exec(shell, argv, os.Environ()))
}

type account struct{ name, home, shell string }

// userOf is the user's line in the image's passwd; where it has none, root as everywhere.
func userOf(uid int) account {
	found := account{"root", "/", ""}
	file, err := os.Open("/etc/passwd")
	if err != nil {
		return found
	}
	defer file.Close()
	lines := bufio.NewScanner(io.LimitReader(file, maxPasswd))
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) == 7 && fields[2] == strconv.Itoa(uid) {
			return account{fields[0], fields[5], fields[6]}
		}
	}
	return found
}

// findShell prefers the user's own; one that only refuses a login is none here.
func findShell(own string) string {
	candidates := []string{own, "/bin/bash", "/bin/sh", "sh", "bash"}
	if base := filepath.Base(own); base == "nologin" || base == "false" || base == "true" {
		candidates = candidates[1:]
	}
	for _, candidate := range candidates {
		if path, err := exec.LookPath(candidate); err == nil && candidate != "" {
			return path
		}
	}
	return ""
}
