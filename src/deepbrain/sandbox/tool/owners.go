package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const ownersFile = "/.dbc/owners"

// A file that changes hands is copied into the tenant's writable layer, at the cost of its disk and of the
// time to the start; a directory is not.
const (
	ownedFiles     = 10_000
	ownedFileBytes = 64 << 20
)

// parseUser reads `UID:GID[:GROUP...]`; nothing, or root without further groups, is nobody in particular.
func parseUser(text string) (*syscall.Credential, error) {
	if text == "" {
		return nil, nil
	}
	var numbers []uint32
	for _, part := range strings.Split(text, ":") {
		number, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%q is no number of a user", part)
		}
		numbers = append(numbers, uint32(number))
	}
	if len(numbers) < 2 {
		return nil, errors.New("a user has a group")
	}
	if len(numbers) == 2 && numbers[0] == 0 && numbers[1] == 0 {
		return nil, nil
	}
	return &syscall.Credential{Uid: numbers[0], Gid: numbers[1], Groups: numbers[2:]}, nil
}

// restoreOwners gives the image's files back to whom they belong inside, as its unpacker wrote it down:
// records `<uid> <gid> <path>` with a zero byte each. What cannot be changed stays root's.
func restoreOwners(list string) {
	content, err := os.ReadFile(list)
	if err != nil {
		return
	}
	files, left := ownedFiles, int64(ownedFileBytes)
	for record := range bytes.SplitSeq(content, []byte{0}) {
		var uid, gid int
		owner, path, found := cutOwner(string(record))
		if count, err := fmt.Sscanf(owner, "%d %d", &uid, &gid); !found || err != nil || count != 2 {
			continue
		}
		path = filepath.Join("/", path)
		info, err := os.Lstat(path)
		if err != nil {
			continue
		}
		if !info.IsDir() {
			files, left = files-1, left-info.Size()
			if files < 0 || left < 0 {
				return // directories came first
			}
		}
		os.Lchown(path, uid, gid)
	}
}

func cutOwner(record string) (string, string, bool) {
	parts := strings.SplitN(record, " ", 3)
	if len(parts) != 3 {
		return "", "", false
	}
	return parts[0] + " " + parts[1], parts[2], true
}

// giveWorkspace makes the workspace and what was sent into it the user's, who could not write there.
func giveWorkspace(user *syscall.Credential) {
	if user == nil {
		return
	}
	filepath.WalkDir(workspace(), func(path string, entry fs.DirEntry, err error) error {
		if err == nil {
			os.Lchown(path, int(user.Uid), int(user.Gid))
		}
		return nil
	})
	for fd := range 3 { // /dev/stdout is opened anew by many
		syscall.Fchown(fd, int(user.Uid), int(user.Gid))
	}
}

// enter changes to a directory, which is made where it is missing, and then is the user's.
func enter(directory string, user *syscall.Credential) error {
	directory = filepath.Clean(directory)
	if err := makeOwned(directory, user); err != nil {
		return err
	}
	return syscall.Chdir(directory)
}

func makeOwned(directory string, user *syscall.Credential) error {
	if _, err := os.Stat(directory); err == nil {
		return nil
	}
	if err := makeOwned(filepath.Dir(directory), user); err != nil {
		return err
	}
	if err := os.Mkdir(directory, 0o755); err != nil || user == nil {
		return err
	}
	return os.Chown(directory, int(user.Uid), int(user.Gid))
}
