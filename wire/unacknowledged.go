package wire

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// boundUnacknowledged has the kernel end a TCP connection on which what was sent stays unacknowledged for d. Other
// transports have no use for it.
func boundUnacknowledged(nc net.Conn, d time.Duration) error {
	sc, ok := nc.(syscall.Conn)
	if !ok || nc.LocalAddr().Network() != "tcp" {
		return nil
	}
	raw, err := sc.SyscallConn()
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err == nil {
		cerr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
		})
		err = errors.Join(err, cerr)
	}
	if err != nil {
		return fmt.Errorf("wire: TCP_USER_TIMEOUT of the connection with %s: %w", nc.RemoteAddr(), err)
	}
	return nil
}
