package wire

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPlainTCPIsForLoopbackOnly(t *testing.T) {
	for _, addr := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:7000", "[2001:db8::1]:7000"} {
		l, err := Listen(t.Context(), addr)
		if !errors.Is(err, ErrPlain) {
			t.Errorf("listen on %s: %v", addr, err)
		}
		if err == nil {
			l.Close()
		}
		if _, err := Dial(t.Context(), addr, Options{}); !errors.Is(err, ErrPlain) {
			t.Errorf("dial %s: %v", addr, err)
		} else if !strings.Contains(err.Error(), "unix:/PATH") {
			t.Errorf("dial %s: the error does not say what to do: %v", addr, err)
		}
	}
	for _, addr := range []string{"127.0.0.1", "nonsense", ""} {
		if _, err := Listen(t.Context(), addr); err == nil || errors.Is(err, ErrPlain) {
			t.Errorf("listen on %q: %v", addr, err)
		}
	}
	l, err := Listen(t.Context(), "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if !l.Addr().(*net.TCPAddr).IP.IsLoopback() {
		t.Errorf("listens on %v", l.Addr())
	}
}

func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	addr := "unix:" + path
	l, err := Listen(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	if _, err := Listen(t.Context(), addr); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("while in use: %v", err)
	}
	c, err := Dial(t.Context(), addr, Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as a killed process leaves it
	l.Close()
	if _, err := Dial(t.Context(), addr, Options{}); err == nil {
		t.Error("somebody listens on a dead socket")
	}
	l, err = Listen(t.Context(), addr)
	if err != nil {
		t.Fatalf("over a dead socket: %v", err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), addr); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("over a file: %v", err)
	}
	if b, err := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("the file was touched: %q, %v", b, err)
	}
}
