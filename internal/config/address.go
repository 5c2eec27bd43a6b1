package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Address is where something is served: "unix:/path/of/socket", or host:port with a loopback
// host. The zero value means "not given".
type Address struct {
	// Network and Addr are as net.Dial and net.Listen take them: "unix" and a path, or "tcp"
	// and host:port.
	Network, Addr string
}

// maxSocketPath is the longest path of a Unix socket in bytes (sun_path of unix(7), less its NUL).
const maxSocketPath = 107

// ParseAddress parses an address and refuses what must not be served in plain text.
func ParseAddress(text string) (Address, error) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		return parseUnix(path)
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return Address{}, fmt.Errorf("%q is not an address: write 127.0.0.1:PORT, [::1]:PORT or unix:/path/of/socket", text)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return Address{}, fmt.Errorf("%q: the port %q is not a number from 0 to 65535", text, port)
	} else {
		port = strconv.FormatUint(n, 10)
	}
	if !loopback(host) {
		return Address{}, fmt.Errorf("%q is not a loopback address: until there is TLS, plain TCP is accepted on loopback only; "+
			"use 127.0.0.1:PORT, [::1]:PORT or unix:/path/of/socket, and a tunnel such as ssh -L to another machine", text)
	}
	return Address{Network: "tcp", Addr: net.JoinHostPort(host, port)}, nil
}

func parseUnix(path string) (Address, error) {
	switch {
	case !strings.HasPrefix(path, "/"):
		return Address{}, fmt.Errorf("%q: the path of a Unix socket must be absolute: write unix:/path/of/socket", "unix:"+path)
	case len(path) > maxSocketPath:
		return Address{}, fmt.Errorf("%q: the path is %d bytes long; a Unix socket's may have %d: choose a shorter one", "unix:"+path, len(path), maxSocketPath)
	case strings.ContainsRune(path, 0):
		return Address{}, fmt.Errorf("%q: the path has a NUL byte in it", "unix:"+path)
	}
	return Address{Network: "unix", Addr: path}, nil
}

// loopback says whether a host can only mean this machine. "localhost" is taken at its
// word (RFC 6761); no other name is resolved, since its meaning could change later.
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Zone() == "" && ip.Unmap().IsLoopback()
}

// UnmarshalText parses as [ParseAddress] does.
func (a *Address) UnmarshalText(text []byte) error {
	v, err := ParseAddress(string(text))
	if err == nil {
		*a = v
	}
	return err
}

// IsZero says whether no address was given.
func (a Address) IsZero() bool { return a == Address{} }

// String returns the address as it is written in a file.
func (a Address) String() string {
	if a.Network == "unix" {
		return "unix:" + a.Addr
	}
	return a.Addr
}
