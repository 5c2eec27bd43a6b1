package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite testdata with what the code does now")

const protocolChanged = `The bytes on the wire changed. Peers of an older build will refuse or, worse, misread this
message. If that is meant: raise Version or add a feature bit, say so in PROTOCOL.md ("Version history"),
and run "go test ./wire -run Golden -update". If not, the change is a bug.`

// goldenUUID is 00 01 02 ... with the last byte set.
func goldenUUID(last byte) (u UUID) {
	for i := range u {
		u[i] = byte(i)
	}
	u[15] = last
	return u
}

var goldenCommand = Command{Group: "bank", Epoch: 3, CG: 42}

// golden has one message of each type that has a struct.
var golden = []Message{
	&Hello{Version: 1, Features: 0x80, Required: 0, Role: RolePrimary, Node: "pri-a", Instance: goldenUUID(0xa1)},
	&Attach{Group: "bank", Stream: goldenUUID(0x51), Volumes: []VolumeRef{{"ledger", 1 << 30}, {"log", 8 << 20}}},
	&Attached{Applied: 17, Resumed: true, Complete: 41, Window: 64 << 20,
		Volumes: []VolumeState{{goldenUUID(0xc1), true, true}, {goldenUUID(0xc2), true, false}}},
	&ZeroRanges{CG: 42, Ranges: []Zeroes{{Volume: 0, Block: 1000, Count: 24}, {Volume: 1, Block: 0, Count: 1 << 33}}},
	&Manifest{CG: 42, Volumes: []VolumeManifest{{0, 3, 2, 0x1122334455667788, false}, {1, 0, 0, 0xef46db3751d8e999, true}}},
	&Credit{Applied: 19},
	&Open{goldenCommand, 40},
	&Opened{goldenCommand},
	&Hold{goldenCommand, 50000},
	&Held{goldenCommand},
	&Thaw{goldenCommand},
	&Thawed{goldenCommand, true},
	&Drained{goldenCommand, 3},
	&FinalNote{goldenCommand},
	&Fence{goldenCommand},
	&Query{goldenCommand, true},
	&State{Command: goldenCommand, Final: 41, Linked: 42, Complete: 42, Receiving: 43, PoolFull: true, Failed: "journal: flush failed", Instance: goldenUUID(0xb2), FreeBlocks: 123456, Awaited: 3, Lacking: 2, LackingThen: 1},
	&Complete{Command: goldenCommand, Awaited: 3, Lacking: 1},
	&Link{goldenCommand},
	&Linked{goldenCommand},
	&Release{goldenCommand},
	&Final{goldenCommand},
	&Revert{goldenCommand, true, 43, 41},
	&Reverted{goldenCommand},
	&Lost{goldenCommand, "secondary restarted"},
	&Status{},
	&StatusReply{[]byte(`{"state":"idle"}`)},
	&Volume{Group: "bank", Name: "ledger", Action: VolumeMake, Size: 1 << 30},
	&GroupChange{Group: "bank", Action: GroupSet, JSON: []byte(`{"interval":"250ms"}`)},
	&Reload{},
	&Ping{0x0102030405060708},
	&Pong{0x0102030405060708},
	&Error{Code: CodeStaleEpoch, Frame: 5, Group: "bank", CG: 42, Text: "epoch 2 < 3"},
}

// dumpFrames prints frames as hex, a field per line, with its name and value.
func dumpFrames(t testing.TB, stream []byte) string {
	t.Helper()
	var out strings.Builder
	r := NewReader(bytes.NewReader(stream))
	for {
		h, body, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "# %v, frame %d: header\n", h.Type, h.Number)
		dumpHeader(&out, &h)
		if h.Body > 0 {
			fmt.Fprintf(&out, "# body\n")
		}
		if h.Type == TypeUpdates {
			dumpUpdates(t, &out, h, body, r)
			continue
		}
		before := ""
		c := coder{trace: func(field string, b []byte) {
			if field == before { // a length, then the bytes
				dumpBytes(&out, fmt.Sprintf("%s %q", field, b), b)
			} else {
				dumpField(&out, field, b)
			}
			before = field
		}}
		if err := c.decode(types[h.Type].make(), body); err != nil {
			t.Fatal(err)
		}
	}
}

func dumpHeader(out *strings.Builder, h *Header) {
	var b [HeaderSize]byte
	h.put(&b)
	for _, f := range []struct {
		name     string
		from, to int
	}{
		{"magic", offMagic, offType}, {"type", offType, offFlags}, {"flags", offFlags, offReserved}, {"reserved", offReserved, offBody},
		{"body length", offBody, offPayload}, {"payload length", offPayload, offNumber}, {"frame number", offNumber, offSequence},
		{"stream sequence", offSequence, offBodySum}, {"body checksum", offBodySum, offHeaderSum}, {"header checksum", offHeaderSum, HeaderSize},
	} {
		dumpField(out, f.name, b[f.from:f.to])
	}
}

func dumpUpdates(t testing.TB, out *strings.Builder, h Header, body []byte, r *Reader) {
	var u Updates
	if err := u.Decode(h, body); err != nil {
		t.Fatal(err)
	}
	dumpField(out, "cg", body[:8])
	dumpField(out, "descriptors", body[8:12])
	dumpField(out, "reserved", body[12:16])
	for i := range u.Len() {
		d := body[updatesFixed+i*descriptorSize:]
		dumpField(out, "volume", d[:4])
		dumpField(out, "count", d[4:8])
		dumpField(out, "block", d[8:16])
	}
	for i := range u.Blocks() {
		dumpField(out, "checksum", body[updatesFixed+u.Len()*descriptorSize+8*i:][:8])
	}
	payload := make([]byte, h.Payload)
	if err := r.Payload(payload); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(out, "# payload\n")
	for i := 0; i < len(payload); i += BlockSize {
		fmt.Fprintf(out, "%02x*%-44d # block\n", payload[i], BlockSize)
	}
}

// dumpField prints one field of fixed length; a number also as decimal.
func dumpField(out *strings.Builder, name string, b []byte) {
	switch {
	case name == "magic":
		name += fmt.Sprintf(" %q", b)
	case strings.HasSuffix(name, "checksum") || name == "digest":
	case len(b) == 1:
		name += fmt.Sprintf(" %d", b[0])
	case len(b) == 2:
		name += fmt.Sprintf(" %d", le.Uint16(b))
	case len(b) == 4:
		name += fmt.Sprintf(" %d", le.Uint32(b))
	case len(b) == 8:
		name += fmt.Sprintf(" %d", le.Uint64(b))
	}
	dumpBytes(out, name, b)
}

func dumpBytes(out *strings.Builder, comment string, b []byte) {
	for first := true; len(b) > 0; first = false {
		n := min(16, len(b))
		line := fmt.Sprintf("% -47x", b[:n])
		if first {
			line += " # " + comment
		}
		out.WriteString(strings.TrimRight(line, " ") + "\n")
		b = b[n:]
	}
}

// parseDump is the inverse of dumpFrames: it knows bytes, "xx*n" for n equal bytes, and comments.
func parseDump(t testing.TB, dump string) []byte {
	t.Helper()
	var out []byte
	for line := range strings.Lines(dump) {
		line, _, _ = strings.Cut(line, "#")
		for _, word := range strings.Fields(line) {
			digits, times, repeated := strings.Cut(word, "*")
			b, err := hex.DecodeString(digits)
			if err != nil {
				t.Fatalf("%q: %v", word, err)
			}
			n := 1
			if repeated {
				if _, err := fmt.Sscan(times, &n); err != nil {
					t.Fatalf("%q: %v", word, err)
				}
			}
			out = append(out, bytes.Repeat(b, n)...)
		}
	}
	return out
}

// goldenFile compares the frames of stream with a file of testdata, in bytes and in print.
func goldenFile(t *testing.T, name string, stream []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	got := dumpFrames(t, stream)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(parseDump(t, string(want)), stream) {
		t.Errorf("%s\n%s", protocolChanged, cmp.Diff(string(want), got))
	} else if string(want) != got {
		t.Errorf("the same bytes are printed differently; run with -update\n%s", cmp.Diff(string(want), got))
	}
}

func TestGoldenMessages(t *testing.T) {
	covered := map[Type]bool{TypeUpdates: true}
	for _, m := range golden {
		covered[m.Type()] = true
		t.Run(m.Type().String(), func(t *testing.T) {
			var stream bytes.Buffer
			sequence := uint64(0)
			if m.Type().InStream() {
				sequence = 18
			}
			if err := NewWriter(&stream).WriteStream(m, sequence); err != nil {
				t.Fatal(err)
			}
			goldenFile(t, strings.ToLower(m.Type().String()), stream.Bytes())
			h, body, err := NewReader(&stream).Next()
			if err != nil {
				t.Fatal(err)
			}
			back, err := Decode(h.Type, body)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(m, back); d != "" {
				t.Error(d)
			}
		})
	}
	for ty := range types {
		if Type(ty).known() && !covered[Type(ty)] {
			t.Errorf("%v has no golden message", Type(ty))
		}
	}
}

// filled is one block of equal bytes, and its checksum.
func filled(c byte) (payload []byte, sums []uint64) {
	payload = bytes.Repeat([]byte{c}, BlockSize)
	return payload, []uint64{xxhash.Sum64(payload)}
}

// goldenExchange is what a primary sends to a secondary for CG 42: two updates, a trim and the
// manifest. PROTOCOL.md shows it.
func goldenExchange(t testing.TB) []byte {
	var stream bytes.Buffer
	w := NewWriter(&stream)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var b Batch
	var d0, d1 Digest
	b.Reset(42)
	for _, x := range []struct {
		u Update
		c byte
		d *Digest
	}{{Update{Volume: 0, Block: 7, Count: 1}, 0x11, &d0}, {Update{Volume: 1, Block: 300, Count: 1}, 0x22, &d1}} {
		payload, sums := filled(x.c)
		must(b.Add(x.u, sums, payload))
		x.d.AddUpdate(x.u, sums)
	}
	must(w.WriteUpdates(&b, 1))
	z := Zeroes{Volume: 1, Block: 512, Count: 16}
	d1.AddZeroes(z)
	must(w.WriteStream(&ZeroRanges{CG: 42, Ranges: []Zeroes{z}}, 2))
	must(w.WriteStream(&Manifest{CG: 42, Volumes: []VolumeManifest{d0.Manifest(0), d1.Manifest(1)}}, 3))
	return stream.Bytes()
}

func TestGoldenExchange(t *testing.T) {
	goldenFile(t, "exchange", goldenExchange(t))
}

// The dump printed in PROTOCOL.md is the golden one.
func TestProtocolShowsGoldenExchange(t *testing.T) {
	doc, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	dump, err := os.ReadFile(filepath.Join("testdata", "exchange.hex"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), "```\n"+string(dump)+"```\n") {
		t.Error("PROTOCOL.md does not show testdata/exchange.hex as it is; copy it there")
	}
}

// Every message, field list and limit of the code is in the specification.
func TestProtocolNamesEverything(t *testing.T) {
	doc, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	for ty := range types {
		if ty := Type(ty); ty.known() && !strings.Contains(string(doc), fmt.Sprintf("\n### %v (%d)", ty, ty)) {
			t.Errorf("PROTOCOL.md has no section %q", fmt.Sprintf("### %v (%d)", ty, ty))
		}
	}
	for c, s := range sentinels {
		if s != nil && !strings.Contains(string(doc), fmt.Sprintf("| %d | ", c)) {
			t.Errorf("PROTOCOL.md does not list error code %d", c)
		}
	}
	for name, v := range map[string]uint64{"MaxBody": MaxBody, "MaxPayload": MaxPayload, "MaxUpdateBlocks": MaxUpdateBlocks,
		"MaxZeroRanges": MaxZeroRanges, "MaxVolumes": MaxVolumes, "MaxName": MaxName, "MaxText": MaxText, "MaxStatus": MaxStatus, "MaxBlocks": MaxBlocks} {
		if !strings.Contains(string(doc), fmt.Sprintf("| %s | %d |", name, v)) {
			t.Errorf("PROTOCOL.md does not give %s as %d", name, v)
		}
	}
}
