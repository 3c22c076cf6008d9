// dbc-tool is mounted read-only at /.dbc/tool in every tenant. It is what host and renter need inside a
// container and may not find there: an init, a leash for exec sessions, tar both ways, the user's shell, an
// SFTP server and a way to the tenant's own ports. Static, and harmless in anyone's hands: it can do nothing
// its caller could not do.
package main

import (
	"fmt"
	"os"
)

const (
	exitUsage      = 125
	exitNotRunable = 126
	exitNotFound   = 127
	exitKilled     = 137
)

var commands = map[string]func([]string) int{
	"init":         initMain,    // pid 1 of a tenant, or the root of a process tenant
	"run":          runMain,     // an exec session
	"session":      sessionMain, // around the client of an exec session, on the host
	"confine":      confineMain, // drop rights, then exec (process mode)
	"tar-out":      tarOutMain,
	"tar-in":       tarInMain,
	"is-directory": isDirectoryMain,
	"login":        loginMain,
	"sftp-server":  sftpMain,
	"dial":         dialMain,
	"canary":       canaryMain,
}

func main() {
	if len(os.Args) >= 2 {
		if command, known := commands[os.Args[1]]; known {
			os.Exit(command(os.Args[2:]))
		}
	}
	os.Exit(fail(exitUsage, "usage: tool init|run|confine|tar-out|tar-in|is-directory|login|sftp-server|dial|canary ..."))
}

func fail(code int, format string, values ...any) int {
	fmt.Fprintf(os.Stderr, "dbc: "+format+"\n", values...)
	return code
}
