package wire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// An address is "host:port", where host must be a loopback address (or a name of nothing else), or
// "unix:/path".

// Listen listens on addr. Plain TCP elsewhere than on loopback is refused with ErrPlain.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return listenUnix(ctx, path)
	}
	local, err := loopback(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("wire: listen on %q: %w", addr, err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", local[0])
	if err != nil {
		return nil, fmt.Errorf("wire: listen on %q: %w", addr, err)
	}
	return l, nil
}

// Dial connects to addr; the handshake is the caller's. Plain TCP elsewhere than to loopback is refused
// with ErrPlain.
func Dial(ctx context.Context, addr string, o Options) (*Conn, error) {
	o = o.withDefaults()
	nc, err := dial(ctx, addr, o.IdleTimeout)
	if err != nil {
		return nil, fmt.Errorf("wire: dial %q: %w", addr, err)
	}
	return NewConn(nc, o), nil
}

func dial(ctx context.Context, addr string, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout}
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return d.DialContext(ctx, "unix", path)
	}
	candidates, err := loopback(ctx, addr)
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, a := range candidates {
		nc, err := d.DialContext(ctx, "tcp", a)
		if err == nil {
			return nc, nil
		}
		failed = append(failed, err)
	}
	return nil, errors.Join(failed...)
}

// loopback gives the literal addresses of addr, all of them loopback. The name is resolved
// here, once, so that what was checked is what is used.
func loopback(ctx context.Context, addr string) ([]string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("%w; an address is HOST:PORT or unix:/PATH", err)
	}
	if host == "" {
		return nil, fmt.Errorf("%w: an empty host means every interface; use 127.0.0.1:%s or a unix:/PATH until TLS is there", ErrPlain, port)
	}
	ips, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return nil, err
	}
	var literal []string
	for _, ip := range ips {
		if !ip.IP.IsLoopback() {
			return nil, fmt.Errorf("%w: %s is %s; use 127.0.0.1:%s or a unix:/PATH until TLS is there", ErrPlain, host, ip.IP, port)
		}
		literal = append(literal, net.JoinHostPort(ip.String(), port))
	}
	if len(literal) == 0 {
		return nil, fmt.Errorf("%q has no address", host)
	}
	return literal, nil
}

// listenUnix listens on a socket that only its owner may use. A socket that a dead process left
// behind is replaced.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("wire: listen on unix:%s: %w", path, err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("wire: listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("wire: listen: %w", err), l.Close())
	}
	return l, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("exists and is not a socket; choose another path")
	}
	nc, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		nc.Close()
		return errors.New("another process listens there")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}
