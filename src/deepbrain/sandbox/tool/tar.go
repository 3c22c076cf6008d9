package main

import (
	"archive/tar"
	"bufio"
	"errors"
	"flag"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const bufferSize = 256 << 10

var errTooLong = errors.New("the stream is over its bound")

// notResults is what renters' editors and shells leave in the workspace, which is their home: nobody asked
// for it. The same as NOT_RESULTS in sandbox.py.
var notResults = []string{
	".bash_history", ".cache", ".cursor-server", ".python_history",
	".vscode-server", ".vscode-server-insiders", ".windsurf-server", ".zed_server",
}

// workspace is where relative paths start. Only a process tenant, which has no root of its own, is told
// another place.
func workspace() string {
	if told := os.Getenv("DBC_WORKSPACE"); told != "" {
		return told
	}
	return "/workspace"
}

func inWorkspace(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(workspace(), path)
}

// isDirectoryMain says by its exit code whether a path is a directory, or leads to one: `is-directory PATH`.
func isDirectoryMain(args []string) int {
	if len(args) != 1 {
		return exitUsage
	}
	if info, err := os.Stat(inWorkspace(args[0])); err != nil || !info.IsDir() {
		return 1
	}
	return 0
}

// tarOutMain writes paths as a tar to stdout: `tar-out [--newer NS] [--max N] -- path...`.
// Relative paths are below the workspace and keep their names; absolute ones lose the leading slash.
// Regular files and directories only: nothing is followed, sent as a link, or blocked on. With --newer
// only regular files created or changed after that moment are sent, of the whole workspace without
// notResults. A path that does not exist is taken as
// a pattern. What cannot be read is named on stderr and left out; nothing at all is an error.
func tarOutMain(args []string) int {
	flags := flag.NewFlagSet("tar-out", flag.ContinueOnError)
	newer := flags.Int64("newer", -1, "Unix nanoseconds")
	limit := flags.Int64("max", 1<<62, "bytes of content")
	if flags.Parse(args) != nil {
		return exitUsage
	}
	output := bufio.NewWriterSize(os.Stdout, bufferSize)
	packer := &packer{out: tar.NewWriter(output), newer: *newer, left: *limit}
	code, found := 0, 0
	for _, path := range flags.Args() {
		clean, root := filepath.Clean(path), "/"
		if !filepath.IsAbs(clean) {
			root = workspace()
			if clean == ".." || strings.HasPrefix(clean, "../") {
				code = fail(1, "%s is outside of the workspace", path)
				continue
			}
		}
		for _, full := range named(filepath.Join(root, clean)) {
			name, err := filepath.Rel(root, full)
			if err == nil {
				err = packer.add(full, name)
			}
			switch {
			case errors.Is(err, errTooLong) || errors.Is(err, syscall.EPIPE):
				return fail(1, "%v", err)
			case errors.Is(err, fs.ErrNotExist):
				fail(0, "left out: %v", err)
			case err != nil:
				code = fail(1, "%v", err)
			default:
				found++
			}
		}
	}
	if found == 0 && flags.NArg() > 0 && code == 0 {
		code = fail(1, "there is no %s", strings.Join(flags.Args(), ", "))
	}
	if err := errors.Join(packer.out.Close(), output.Flush()); err != nil {
		return fail(1, "%v", err)
	}
	return code
}

// named is what a path stands for: itself where it exists, else the names it matches as a pattern.
func named(full string) []string {
	if _, err := os.Lstat(full); err != nil {
		if matches, _ := filepath.Glob(full); len(matches) > 0 {
			return matches
		}
	}
	return []string{full}
}

type packer struct {
	out   *tar.Writer
	newer int64
	left  int64
}

func (p *packer) add(full, name string) error {
	if _, err := os.Lstat(full); err != nil {
		return err
	}
	return filepath.WalkDir(full, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			fail(0, "left out: %v", err)
			return nil
		}
		below, err := filepath.Rel(full, path)
		if err != nil {
			return err
		}
		label := filepath.Join(name, below)
		if p.newer >= 0 && full == inWorkspace(".") && slices.Contains(notResults, label) {
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		switch {
		case entry.IsDir() && p.newer < 0 && label != ".":
			return p.addDirectory(entry, label)
		case entry.Type().IsRegular():
			return p.addFile(path, label)
		}
		return nil
	})
}

func (p *packer) addDirectory(entry fs.DirEntry, name string) error {
	info, err := entry.Info()
	if err != nil {
		return nil // gone meanwhile
	}
	return p.out.WriteHeader(&tar.Header{
		Typeflag: tar.TypeDir, Name: name + "/", Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(),
	})
}

func (p *packer) addFile(path, name string) error {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		fail(0, "left out: %v", err)
		return nil
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || !p.wanted(info) {
		return nil
	}
	if p.left -= info.Size(); p.left < 0 {
		return errTooLong
	}
	header := &tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: info.Size(),
		Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(),
	}
	if err := p.out.WriteHeader(header); err != nil {
		return err
	}
	sent, err := io.Copy(p.out, io.LimitReader(file, info.Size()))
	if err != nil {
		return err
	}
	_, err = io.CopyN(p.out, zeros{}, info.Size()-sent) // it shrank while it was read
	return err
}

func (p *packer) wanted(info fs.FileInfo) bool {
	if p.newer < 0 {
		return true
	}
	changed := info.Sys().(*syscall.Stat_t).Ctim
	return max(changed.Nano(), info.ModTime().UnixNano()) > p.newer
}

type zeros struct{}

func (zeros) Read(buffer []byte) (int, error) {
	clear(buffer)
	return len(buffer), nil
}

// tarInMain extracts the tar on stdin below a directory: `tar-in DEST`. Regular files and directories
// only; a name that leads out of DEST, a link or a device ends it with an error.
func tarInMain(args []string) int {
	if len(args) != 1 {
		return exitUsage
	}
	destination := inWorkspace(args[0])
	if err := os.MkdirAll(destination, 0o755); err != nil {
		return fail(1, "%v", err)
	}
	root, err := os.OpenRoot(destination)
	if err != nil {
		return fail(1, "%v", err)
	}
	reader := tar.NewReader(bufio.NewReaderSize(os.Stdin, bufferSize))
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return 0
		}
		if err == nil {
			err = extract(root, header, reader)
		}
		if err != nil {
			return fail(1, "%v", err)
		}
	}
}

func extract(root *os.Root, header *tar.Header, content io.Reader) error {
	name := filepath.Clean(header.Name)
	mode := fs.FileMode(header.Mode & 0o777)
	switch header.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, mode|0o700)
	case tar.TypeReg:
	default:
		return errors.New(header.Name + ": only files and directories can be copied")
	}
	if parent := filepath.Dir(name); parent != "." {
		if err := root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode|0o200)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	if err = errors.Join(err, file.Chmod(mode), file.Close()); err != nil {
		return err
	}
	return root.Chtimes(name, time.Now(), header.ModTime)
}
