package main

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	dialed      = '+'
	dialTimeout = 10 * time.Second
	frameSize   = 64 << 10
)

// dialMain joins its standard streams to a socket of this tenant: `dial PORT` or `dial /PATH`. Input is
// passed on as it is, and its end closes that direction. Output is one `+` once connected, then frames of
// a little-endian u32 length and so many bytes; a frame of none is the end of what the other side says,
// which the end of a session's output alone could not tell while input goes on.
func dialMain(args []string) int {
	if len(args) != 1 {
		return exitUsage
	}
	connection, err := dial(args[0])
	if err != nil {
		return fail(1, "%s", reason(args[0], err))
	}
	defer connection.Close()
	os.Stdout.Write([]byte{dialed})
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(connection, os.Stdin)
		if half, can := connection.(interface{ CloseWrite() error }); can {
			half.CloseWrite()
		}
		sent <- err
	}()
	if err := frames(os.Stdout, connection); err != nil {
		return fail(1, "%v", err)
	}
	if err := <-sent; err != nil {
		return fail(1, "%v", err)
	}
	return 0
}

func dial(address string) (net.Conn, error) {
	if strings.HasPrefix(address, "/") {
		return net.DialTimeout("unix", address, dialTimeout)
	}
	connection, err := net.DialTimeout("tcp4", net.JoinHostPort("127.0.0.1", address), dialTimeout)
	if err != nil {
		if six, failed := net.DialTimeout("tcp6", net.JoinHostPort("::1", address), dialTimeout); failed == nil {
			return six, nil
		}
	}
	return connection, err
}

func reason(address string, err error) string {
	if _, failed := strconv.ParseUint(address, 10, 16); failed == nil {
		address = "port " + address
	}
	return "nothing answers at " + address + " of this order (" + lastWords(err) + ")"
}

func lastWords(err error) string {
	parts := strings.Split(err.Error(), ": ")
	return parts[len(parts)-1]
}

// frames copies until the other side ends. A connection that breaks is an error, not an end.
func frames(output io.Writer, input io.Reader) error {
	buffer := make([]byte, 4+frameSize)
	for {
		count, err := input.Read(buffer[4:])
		if count > 0 {
			binary.LittleEndian.PutUint32(buffer, uint32(count))
			if _, failed := output.Write(buffer[:4+count]); failed != nil {
				return failed
			}
		}
		if err == io.EOF {
			_, err = output.Write(make([]byte, 4))
			return err
		}
		if err != nil {
			return err
		}
	}
}
