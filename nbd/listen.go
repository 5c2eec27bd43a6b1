package nbd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrPlainTCP is what ListenAddr returns for an address that others can reach, without TLS.
var ErrPlainTCP = errors.New("plain TCP is served on loopback addresses only")

// ListenAddr listens on "unix:/path/to/socket" or "host:port". Without TLS only loopback
// hosts are accepted (ErrPlainTCP otherwise). A socket file that nobody listens on any more is
// replaced; any other file in its place is an error.
func ListenAddr(addr string, tls bool) (net.Listener, error) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return listenUnix(path)
	}
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: give unix:/path or host:port: %w", addr, err)
	}
	if !tls && !tcp.IP.IsLoopback() {
		return nil, fmt.Errorf("listen on %q: %w: use 127.0.0.1, [::1] or unix:/path; "+
			"other addresses need TLS, which farside does not configure yet", addr, ErrPlainTCP)
	}
	l, err := net.ListenTCP("tcp", tcp)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", addr, err)
	}
	return l, nil
}

func listenUnix(path string) (net.Listener, error) {
	if path == "" {
		return nil, errors.New(`listen on "unix:": the path of the socket is missing`)
	}
	l, err := net.Listen("unix", path)
	if !errors.Is(err, unix.EADDRINUSE) {
		return l, wrapListen(path, err)
	}
	if err := removeStaleSocket(path); err != nil {
		return nil, err
	}
	l, err = net.Listen("unix", path)
	return l, wrapListen(path, err)
}

func wrapListen(path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("listen on unix socket %q: %w", path, err)
}

// removeStaleSocket removes a socket that refuses connections: its server is gone.
func removeStaleSocket(path string) error {
	st, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("listen on unix socket: %w", err)
	}
	if st.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("listen on unix socket %q: a file that is not a socket is in its place; remove it or choose another path", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close() // it only asked whether somebody listens
		return fmt.Errorf("listen on unix socket %q: another process listens there", path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("listen on unix socket %q: cannot tell whether it is in use: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("listen on unix socket: remove the stale one: %w", err)
	}
	return nil
}
