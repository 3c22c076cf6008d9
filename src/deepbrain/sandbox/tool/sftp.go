package main

import (
	"errors"
	"io"
	"os"

	"github.com/pkg/sftp"
)

// sftpMain serves SFTP over its standard streams, as the same user and inside the same root as any other
// program here: what a link points at is found where the tenant would find it.
func sftpMain(args []string) int {
	if len(args) != 0 {
		return exitUsage
	}
	if os.Chdir(os.Getenv("HOME")) != nil {
		os.Chdir(workspace())
	}
	// The library's own working directory would be put before the target of a relative link as well.
	server, err := sftp.NewServer(streams{os.Stdin, os.Stdout})
	if err != nil {
		return fail(1, "%v", err)
	}
	defer server.Close()
	if err := server.Serve(); err != nil && !errors.Is(err, io.EOF) {
		return fail(1, "%v", err)
	}
	return 0
}

type streams struct {
	io.Reader
	io.WriteCloser
}
