package config

import (
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseSize(t *testing.T) {
	good := map[string]Size{
		"0": 0, "4096": 4096, "4KiB": 4096, "4 MiB": 4 << 20, " 64GiB ": 64 << 30, "1.5TB": 1.5e12, "0.5KiB": 512,
		"8191PiB": 8191 << 50, "1kb": 1000, "9223372036854775807": math.MaxInt64, "1.50 gib": 3 << 29, "2.": 2,
	}
	for text, want := range good {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	bad := map[string]string{
		"": "not a size", "GiB": "not a size", "-1": "not a size", "1e9": "not a size", "0x10": "not a size", "1_000": "not a size",
		"64G": "ambiguous", "64k": "ambiguous", "64Gib/s": "unknown unit", "5 furlongs": "unknown unit", "1.5B": "whole number",
		"0.0001KiB": "whole number", "8192PiB": "larger", "99999999999999999999": "larger", "1..2": "not a size", "1.x": "unknown unit",
		"9223372036854775807.5KB": "larger", "8191.99999999999999999999PiB": "larger", "1.0000000000000000001PiB": "whole number",
	}
	for text, want := range bad {
		if got, err := ParseSize(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseSize(%q) = %d, %v; want an error with %q", text, got, err, want)
		}
	}
}

// What String prints parses back to the same size.
func TestSizeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Size(rapid.Uint64Range(0, maxSize).Draw(t, "size") >> rapid.IntRange(0, 63).Draw(t, "shift") << rapid.IntRange(0, 20).Draw(t, "up"))
		if s > maxSize {
			t.Skip("too large")
		}
		if got, err := ParseSize(s.String()); err != nil || got != s {
			t.Fatalf("%d prints as %s and parses as %d, %v", uint64(s), s, got, err)
		}
	})
}

func TestCheckVolumeSize(t *testing.T) {
	for size, want := range map[Size]string{
		4096:                "",
		64 << 30:            "",
		0:                   "the nearest valid size is 4096 (4KiB)",
		1:                   "the nearest valid size is 4096 (4KiB)",
		4097:                "the nearest valid sizes are 4096 (4KiB) and 8192 (8KiB)",
		1<<40 - 1:           "the nearest valid sizes are 1099511623680 (1073741820KiB) and 1099511627776 (1TiB)",
		math.MaxInt64:       "the nearest valid size is 9223372036854771712",
		math.MaxUint64:      "the largest volume size",
		math.MaxInt64 + 1:   "the largest volume size",
		math.MaxInt64 - 300: "the nearest valid size is",
	} {
		err := CheckVolumeSize(size)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("CheckVolumeSize(%d) = %v, want %q", uint64(size), err, want)
		}
	}
}

func TestParseAddress(t *testing.T) {
	good := map[string]Address{
		"127.0.0.1:7400": {"tcp", "127.0.0.1:7400"}, "127.9.9.9:0": {"tcp", "127.9.9.9:0"}, "[::1]:1": {"tcp", "[::1]:1"},
		"localhost:65535": {"tcp", "localhost:65535"}, "unix:/run/x.sock": {"unix", "/run/x.sock"}, "[::ffff:127.0.0.1]:8": {"tcp", "[::ffff:127.0.0.1]:8"},
	}
	for text, want := range good {
		got, err := ParseAddress(text)
		if err != nil || got != want {
			t.Errorf("ParseAddress(%q) = %v, %v; want %v", text, got, err, want)
		}
		if again, err := ParseAddress(got.String()); err != nil || again != got {
			t.Errorf("%q prints as %q, which parses as %v, %v", text, got, again, err)
		}
	}
	bad := map[string]string{
		"0.0.0.0:1": "loopback", ":1": "loopback", "10.1.2.3:1": "loopback", "[::]:1": "loopback", "example.org:1": "loopback", "[::1%lo]:1": "loopback",
		"localhost.example.org:1": "loopback", "127.0.0.1": "not an address", "": "not an address", "127.0.0.1:http": "port", "127.0.0.1:65536": "port",
		"127.0.0.1:-1": "port", "unix:run/x": "absolute", "unix:": "absolute", "unix:/" + strings.Repeat("x", 107): "108 bytes long",
	}
	for text, want := range bad {
		if got, err := ParseAddress(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseAddress(%q) = %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "ab", 1}, {"", "xyz", 3}, {"devicse", "devices", 1}, {"kitten", "sitting", 3}, {"größe", "grösse", 2}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
		if got := distance(c.b, c.a); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.b, c.a, got, c.want)
		}
	}
}

func TestNearestOfAbsurdKey(t *testing.T) {
	if got, _ := nearest(strings.Repeat("x", 1<<20), []string{"a", "x"}); got != "x" {
		t.Errorf("nearest is %q", got)
	}
}
